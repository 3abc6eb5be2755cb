"""Streams: batches as a function of (seed, step), whatever the hosts, threads and history."""

import threading
import time

import cv2
import jax
import numpy as np
import pytest

from big_vit_lite import data, parallel
from big_vit_lite.config import Data, InputError, Mesh, RunError, Split
from big_vit_lite.data.blocks import Blocks, Pool, joined
from big_vit_lite.data.examples import Draws, Examples
from big_vit_lite.data.order import Once, Shuffled
from big_vit_lite.data.sources import Source
from big_vit_lite.data.stream import BatchStream
from big_vit_lite.data.transforms import parse

AUGMENT = "pad_crop(2)|flip|affine(degrees=10, translate=1)|randaugment(1, 9, translate=3)"


def synthetic(transform=AUGMENT, examples=100, size=(8, 6), **options):
    return Split(
        source="synthetic", transform=transform, examples=examples, image_size=size, **options
    )


def train(batch_size=32, seed=0, mesh=None, threads=2, prefetch_mib=64, **options):
    settings = Data(batch_size=batch_size, train=synthetic(**options), prefetch_mib=prefetch_mib)
    settings = settings.model_copy(update={"threads": threads})
    return data.train_stream(settings, seed, mesh)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


class Rows(Source):
    """Images (2, 2, 1) whose pixels are their row; counts, delays and fails on request."""

    def __init__(self, n, bad=None, seconds=0.0):
        self.class_names = ("only",)
        self.n, self.bad, self.seconds, self.reads = n, bad, seconds, 0
        self._lock = threading.Lock()

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        with self._lock:
            self.reads += 1
        if self.seconds:
            time.sleep(self.seconds)
        if i == self.bad:
            raise RunError(f"row {i} is bad; take it out")
        return {"image": np.full((2, 2, 1), i % 256, np.uint8), "label": 0}

    def labels(self):
        return np.zeros(self.n, int)

    def name_of(self, i):
        return f"row {i}"


def stream_of(source, batch_size, train=False, threads=2, prefetch_mib=64, workers=0):
    pool = Pool([Examples(source, parse(""), 0)])
    order = Shuffled(len(source), 0) if train else Once(len(source))
    blocks = Blocks(pool, order, batch_size, evaluating=not train)
    batches = None if train else -(-len(source) // batch_size)
    return BatchStream(blocks, batches, None, threads, workers, prefetch_mib, "data.batch_size")


# Order


@pytest.mark.parametrize("examples", [1, 7, 100])
def test_every_epoch_holds_every_example_once_in_an_order_of_its_own(examples):
    stream = train(batch_size=10, examples=examples, transform="")
    steps = range(4 * examples // 10 + 1)
    order = np.concatenate([stream.indices(i) for i in steps])[: 4 * examples]
    epochs = order.reshape(4, examples)
    assert (np.sort(epochs) == np.arange(examples)).all()
    if examples == 100:
        assert len({e.tobytes() for e in epochs}) == 4
        assert all((e == np.arange(100)).mean() < 0.1 for e in epochs)
        assert not np.array_equal(
            order, np.concatenate([train(10, 1).indices(i) for i in range(40)])
        )


def test_neighbouring_seeds_do_not_share_orders_one_epoch_apart():
    first, second = train(100, 0), train(100, 1)
    assert not np.array_equal(first.indices(1), second.indices(0))


def test_a_later_epoch_augments_anew_and_by_example_not_by_place():
    """The same (seed, row, epoch) gives the same pixels in batches of another size."""
    small, large = train(20), train(50)
    pixels = {}
    for step in range(10):
        for row, image in zip(small.indices(step), small.host_batch(step)["image"], strict=True):
            pixels[step // 5, int(row)] = image
    assert len(pixels) == 200
    for step in range(4):
        for row, image in zip(large.indices(step), large.host_batch(step)["image"], strict=True):
            assert np.array_equal(pixels[step // 2, int(row)], image)
    changed = [not np.array_equal(pixels[0, row], pixels[1, row]) for row in range(100)]
    assert np.mean(changed) > 0.9


def test_draws_equal_a_fresh_generators_whatever_came_before():
    draws = Draws(5)
    for row, epoch, before in ((3, 0, 0), (3, 1, 1), (2**40, 7, 5)):
        rng = draws.at(row, epoch)
        rng.integers(7, size=before, dtype=np.int32)  # leaves half a 64-bit draw behind
        found = draws.at(row, epoch).random(4)
        key = np.random.SeedSequence([5, 2]).generate_state(2, np.uint64)
        fresh = np.random.Philox(key=key, counter=[0, row, epoch, 0])
        assert np.array_equal(found, np.random.Generator(fresh).random(4))


def test_a_part_augments_an_example_as_the_whole_does():
    whole, part = train(100), train(10, part="[90:]")
    pixels = dict(zip(whole.indices(0).tolist(), whole.host_batch(0)["image"], strict=True))
    rows, images = part.indices(0), part.host_batch(0)["image"]
    assert sorted(rows) == list(range(90, 100))
    assert all(np.array_equal(pixels[r], i) for r, i in zip(rows.tolist(), images, strict=True))


# Batches


def test_a_batch_is_the_same_again_after_a_restart_and_with_any_threads():
    reference = [train().host_batch(i) for i in range(12)]
    assert not same(reference[0], reference[1])
    stream = train()
    assert all(same(stream.host_batch(i), reference[i]) for i in (11, 3, 3, 7))
    for threads in (0, 1, 3):
        for start in (0, 5):
            with train(threads=threads).iterate(start, 12) as batches:
                found = [jax.device_get(b) for b in batches]
            assert len(found) == 12 - start
            assert all(same(f, r) for f, r in zip(found, reference[start:], strict=True))


def test_large_batches_are_shared_among_threads_and_joined_in_order():
    stream = train(batch_size=150)
    with stream.iterate(2, 4) as batches:
        assert all(
            same(jax.device_get(b), stream.host_batch(i)) for i, b in enumerate(batches, start=2)
        )


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_make_the_rows_of_their_devices(axes, hosts):
    mesh = parallel.make_mesh(Mesh(data=axes[0], fsdp=axes[1], tensor=axes[2]))
    alone, stream = train(), train(mesh=mesh)
    assert np.array_equal(stream.indices(3), alone.indices(3))
    whole = alone.host_batch(3)
    devices = mesh.devices.ravel()
    of_hosts = [
        devices[i::hosts] if hosts == 4 else np.split(devices, hosts)[i] for i in range(hosts)
    ]
    rows = [stream.rows(own) for own in of_hosts]
    assert set(np.concatenate(rows)) == set(range(32))
    if hosts > 1 and axes[0] * axes[1] == 8:
        assert sum(map(len, rows)) == 32
    for own, held in zip(of_hosts, rows, strict=True):
        assert (np.diff(held) > 0).all()
        assert same(stream.host_batch(3, own), {k: v[held] for k, v in whole.items()})


def test_global_arrays_have_the_spec_and_hold_the_batch():
    mesh = parallel.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    stream, alone = train(mesh=mesh), train()
    assert stream.spec["image"].shape == (32, 8, 6, 3)
    assert stream.spec["label"] == jax.ShapeDtypeStruct(
        (32,), np.int32, sharding=parallel.batch_sharding(mesh)
    )
    assert alone.spec["image"].sharding is None
    with stream.iterate(4, 6) as batches:
        made = [stream[4], next(batches)]
    for batch in made:
        for key, array in batch.items():
            assert (array.shape, array.dtype) == (stream.spec[key].shape, stream.spec[key].dtype)
            assert array.sharding == stream.spec[key].sharding
            assert array.addressable_shards[0].data.shape[0] == 8
        assert same(jax.device_get(batch), alone.host_batch(4))


def test_a_batch_that_does_not_divide_is_refused():
    mesh = parallel.make_mesh(Mesh())
    with pytest.raises(InputError) as error:
        train(batch_size=12, mesh=mesh)
    assert str(error.value) == (
        "data.batch_size is 12, which does not divide over mesh.data x mesh.fsdp = 8; "
        "take a multiple of 8"
    )


# Evaluation


@pytest.mark.parametrize(("examples", "batch_size"), [(100, 32), (96, 32), (5, 32), (100, 1)])
def test_evaluation_sees_every_example_once_and_masks_the_rest(examples, batch_size):
    stream = data.eval_stream(synthetic("", examples), batch_size)
    batches = [jax.device_get(b) for b in stream.iterate()]
    assert len(batches) == len(stream) == -(-examples // batch_size)
    assert {b["image"].shape for b in batches} == {(batch_size, 8, 6, 3)}
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    mask = joined["mask"]
    assert mask.dtype == bool
    assert joined["index"][mask].tolist() == list(range(examples))
    assert (joined["index"][~mask] == -1).all()
    assert not joined["image"][~mask].any()
    assert joined["label"][mask].tolist() == [i % 10 for i in range(examples)]
    assert np.array_equal(
        np.concatenate([stream.indices(i) for i in range(len(stream))]), joined["index"]
    )
    assert {k: (v.shape, v.dtype) for k, v in stream.spec.items()} == {
        k: (v.shape, v.dtype) for k, v in batches[0].items()
    }
    with pytest.raises(IndexError):
        stream[len(stream)]


def test_evaluation_on_a_mesh_names_rows_of_the_whole_split():
    mesh = parallel.make_mesh(Mesh())
    stream = data.eval_stream(synthetic("", 100, part="[90:]"), 8, mesh)
    batches = [jax.device_get(b) for b in stream.iterate()]
    index = np.concatenate([b["index"] for b in batches])
    assert index.tolist() == [*range(90, 100), *[-1] * 6]
    assert stream.examples == 10
    assert stream.name_of(index[3]) == "synthetic, row 93"
    alone = data.eval_stream(synthetic("", 100), 100).host_batch(0)
    assert np.array_equal(batches[0]["image"], alone["image"][90:98])


def test_evaluation_settings_come_from_data():
    settings = Data(batch_size=8, train=synthetic(), threads=1, prefetch_mib=1)
    stream = data.eval_stream(synthetic(), 8, None, settings, "evals.val.data")
    assert stream._ahead(8, 1) == (4, 1)
    with pytest.raises(InputError, match=r"^evals\.val\.data\.part '\[500:\]'"):
        data.eval_stream(synthetic(part="[500:]"), 8, None, settings, "evals.val.data")


# Faults


@pytest.mark.parametrize("threads", [0, 2])
def test_a_fault_in_a_thread_comes_out_at_its_batch_as_it_was(threads):
    stream = stream_of(Rows(100, bad=57), 10, threads=threads)
    batches = stream.iterate()
    for _ in range(5):
        next(batches)
    with pytest.raises(RunError) as error:
        next(batches)
    assert str(error.value) == "row 57 is bad; take it out"
    with pytest.raises(StopIteration):
        next(batches)


def test_images_of_several_sizes_and_undecoded_ones_are_refused(tmp_path):
    (tmp_path / "ant").mkdir()
    for i, size in enumerate([(9, 9), (9, 8)]):
        cv2.imwrite(str(tmp_path / "ant" / f"{i}.png"), np.zeros((*size, 3), np.uint8))
    split = Split(source="folder", path=str(tmp_path), transform="decode")
    with pytest.raises(InputError, match=r"1.png: .* shape \(9, 8, 3\).*such as to_size\(9\)"):
        data.eval_stream(split, 2).host_batch(0)
    with pytest.raises(InputError, match="0.png: the image is stored as bytes; begin the trans"):
        data.eval_stream(split.model_copy(update={"transform": "flip"}), 2)
    with pytest.raises(InputError, match="^data.val.transform 'flp': unknown operation 'flp'"):
        data.eval_stream(split.model_copy(update={"transform": "flp"}), 2)


# Ahead of the consumer


def settled(source, seconds=5.0):
    """Reads so far, once they no longer grow."""
    end, reads = time.monotonic() + seconds, -1
    while reads != source.reads and time.monotonic() < end:
        reads = source.reads
        time.sleep(0.15)
    return source.reads


def test_what_is_made_ahead_is_bounded_in_bytes():
    image = 1 << 16

    class Large(Rows):
        def __getitem__(self, i):
            super().__getitem__(i)
            return {"image": np.zeros((256, 256, 1), np.uint8), "label": 0}

    source = Large(10_000)
    for mib in (1, 8, 16):
        stream = stream_of(source, 16, train=True, prefetch_mib=mib)
        source.reads = 0
        with stream.iterate() as batches:
            next(batches)
            assert settled(source) * image <= max(mib << 20, 3 * 16 * image) + 16 * image
            before = source.reads
            next(batches)
            assert settled(source) == before + 16  # one consumed, one made


def test_the_number_of_batches_ahead_is_bounded_for_tiny_images():
    source = Rows(10_000)
    with stream_of(source, 10, train=True, prefetch_mib=512).iterate() as batches:
        next(batches)
        assert settled(source) <= 80


def test_a_consumer_that_works_as_long_as_a_batch_takes_does_not_wait():
    stream = stream_of(Rows(10_000, seconds=0.002), 10, train=True)
    waits = []
    with stream.iterate(0, 12) as batches:
        for _ in batches:
            waits.append(batches.wait_s)
            time.sleep(0.03)  # a batch takes 10 x 2 ms, on two threads half of that
    assert len(waits) == 12
    assert waits[0] > 0.015
    assert np.median(waits[2:]) < 0.008


def test_the_wait_of_a_fast_consumer_is_measured():
    waits = []
    with stream_of(Rows(1000, seconds=0.002), 10, threads=1).iterate(0, 10) as batches:
        for _ in batches:
            waits.append(batches.wait_s)
    assert 0.015 < np.median(waits) < 0.2


def threads_of_streams():
    names = ("batches", "grain-prefetch")
    return [t for t in threading.enumerate() if t.name.startswith(names)]


def ended(seconds=5.0):
    end = time.monotonic() + seconds
    while threads_of_streams() and time.monotonic() < end:
        time.sleep(0.02)
    return not threads_of_streams()


@pytest.mark.parametrize("end", ["close", "drop", "finish"])
def test_threads_end_with_the_iterator(end):
    assert ended()
    batches = stream_of(Rows(10_000), 10).iterate(0, 3 if end == "finish" else None)
    next(batches)
    assert threads_of_streams()
    if end == "close":
        batches.close()
        batches.close()
        with pytest.raises(StopIteration):
            next(batches)
    elif end == "finish":
        assert len(list(batches)) == 2
    del batches
    assert ended()


def test_closing_while_the_consumer_waits_ends_the_wait():
    batches = stream_of(Rows(100, seconds=0.5), 10).iterate()
    threading.Timer(0.2, batches.close).start()
    assert list(batches) == []


def test_an_empty_range_ends_at_once():
    assert list(train().iterate(5, 5)) == []


# Decoded images are kept


def load(examples, rows, visits):
    draws = Draws(examples.seed)
    made = [examples.example(i, v, draws) for i, v in zip(rows, visits, strict=True)]
    return {key: np.stack([m[key] for m in made]) for key in examples.keys}


class Files(Rows):
    def __getitem__(self, i):
        super().__getitem__(i)
        image = np.full((4, 4, 3), i, np.uint8)
        return {"image": cv2.imencode(".png", image)[1].tobytes(), "label": 0}


@pytest.mark.parametrize(("decoded_bytes", "reads"), [(1 << 20, 20), (20 * 48, 20), (19 * 48, 60)])
def test_decoded_images_are_kept_where_all_of_them_fit(decoded_bytes, reads):
    source = Files(20)
    examples = Examples(source, parse("decode|pad_crop(1)|flip"), 0, decoded_bytes)
    plain = Examples(Files(20), parse("decode|pad_crop(1)|flip"), 0, 0)
    source.reads = 0 if decoded_bytes < 20 * 48 else 1  # the shape was read from the first
    for epoch in range(3):
        rows, epochs = np.arange(20), np.full(20, epoch)
        assert same(load(examples, rows, epochs), load(plain, rows, epochs))
    assert source.reads == reads


@pytest.mark.parametrize("batch_size", [10, 150])
def test_host_arrays_are_taken_over_without_a_copy(batch_size):
    stream = train(batch_size=batch_size)
    blocks = [stream._blocks.make(0, rows) for rows in np.array_split(np.arange(batch_size), 3)]
    for block in (blocks[0], joined(blocks), stream.host_block(0)):
        for array in block.arrays.values():
            assert array.ctypes.data % 64 == 0
            assert array.flags.c_contiguous
    images = stream.host_batch(0)["image"]
    assert jax.device_put(images).unsafe_buffer_pointer() == images.ctypes.data
