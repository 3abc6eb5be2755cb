"""From (seed, step) to a batch: pure functions of the step, on one host or many.

Batch `i` holds the examples of ranks i * B ... (i + 1) * B - 1 in an endless order: epoch after
epoch, each shuffled anew by grain's random-access permutation. Nothing is carried from batch to
batch, so that a run starts at any step at once and the state of the input is the step. Each host
makes the rows of the global batch that its devices hold, as the sharding itself says; contents
therefore depend neither on the number of hosts nor on threads and worker processes.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int

from big_vit_lite import parallel
from big_vit_lite.config import InputError
from big_vit_lite.data import sources, transforms
from big_vit_lite.data.blocks import Arrays, Block, Blocks, Pool, joined
from big_vit_lite.data.examples import DECODED_BYTES, Examples, Skipped
from big_vit_lite.data.order import Mixture, Once, Order, sampled
from big_vit_lite.data.prefetch import Prefetched

if TYPE_CHECKING:
    from big_vit_lite.config import Data, Split
    from big_vit_lite.data.text import TextTransform

BLOCK = 64  # examples one thread makes at a time: large batches are shared out, small ones whole
MOST_THREADS = 16


def train_stream(data: Data, seed: int, mesh: jax.sharding.Mesh | None = None) -> BatchStream:
    """The endless stream of `data.train`, and of `data.mix` beside it, in batches.

    Raises:
      InputError: a source or a transform cannot be used, or the batch does not divide.
    """
    splits = {"data.train": data.train} | {f"data.mix.{k}": s for k, s in data.mix.items()}
    shared = DECODED_BYTES // len(splits)
    # The orders and augmentations of a mixture's members are unrelated.
    seeds = {where: seed if where == "data.train" else _seed(seed, where) for where in splits}
    members = [_examples(s, seeds[where], where, shared) for where, s in splits.items()]
    for (where, s), m in zip(splits.items(), members, strict=True):
        _require_classes(s, m, where)
    orders = [
        sampled(s.sampler, len(m), m.source.labels, s.repeats, seeds[where])
        for (where, s), m in zip(splits.items(), members, strict=True)
    ]
    order: Order = orders[0]
    if len(orders) > 1:
        weights = [s.weight for s in splits.values()]
        order = Mixture(orders, weights, [len(m) for m in members], "data.mix")
    blocks = Blocks(Pool(members, list(splits)), order, data.batch_size, evaluating=False)
    return BatchStream(
        blocks, None, mesh, data.threads, data.workers, data.prefetch_mib, "data.batch_size"
    )


def eval_stream(
    split: Split,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
    data: Data | None = None,
    where: str = "data.val",
    text: TextTransform | None = None,
) -> BatchStream:
    """Every example of `split` once, in order; the last batch is filled up and masked.

    Batches also hold "mask" (False on the filling and where an example cannot be used) and "index"
    (row in the split, -1 on the filling).

    Args:
      data: whose threads, workers and prefetch_mib hold here too.
      where: name of the split's section in the config, for error texts.
      text: with it, `text` and `captions` of the split do not count: all captions of each image are
        read and become tokens by this. They stand beside the arrays, as their number differs:
        "captions" of a batch is a tuple of Captions, of the images that this process has read. An
        image without a caption cannot be used.

    Raises:
      InputError: as train_stream.
    """
    if text is None:
        examples = _examples(split, 0, where, DECODED_BYTES)
    else:
        source = sources.build(split.model_copy(update={"text": text.text}), where)
        transform = transforms.parse(split.transform, f"{where}.transform")
        examples = Examples(source, transform, 0, DECODED_BYTES, text, "all")
    return _once(examples, batch_size, mesh, data, where)


def file_stream(
    paths: Sequence[str],
    transform: str,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
    data: Data | None = None,
    where: str = "data.val",
) -> BatchStream:
    """As eval_stream, of image files by their paths; "index" is the place in `paths`."""
    source = sources.ImageFiles(paths)
    examples = Examples(source, transforms.parse(transform, f"{where}.transform"), 0)
    return _once(examples, batch_size, mesh, data, where)


def _once(
    examples: Examples,
    batch_size: int,
    mesh: jax.sharding.Mesh | None,
    data: Data | None,
    where: str,
) -> BatchStream:
    settings = (data.threads, data.workers, data.prefetch_mib) if data else (None, 0, 512)
    blocks = Blocks(Pool([examples], [where]), Once(len(examples)), batch_size, evaluating=True)
    batches = -(-len(examples) // batch_size)
    return BatchStream(blocks, batches, mesh, *settings, f"the batch size of {where}")


class BatchStream:
    """Random access to batches; see train_stream and eval_stream.

    Attributes:
      examples: number of examples in an epoch.
      class_names: names by label; empty where examples have no labels.
      batch_size: rows of a global batch.
      spec: {key: jax.ShapeDtypeStruct} of a global batch, with shardings where there is a mesh.
    """

    def __init__(
        self,
        blocks: Blocks,
        batches: int | None,
        mesh: jax.sharding.Mesh | None,
        threads: int | None,
        workers: int,
        prefetch_mib: int,
        where: str,
    ):
        self._blocks, self._batches, self.batch_size = blocks, batches, blocks.batch_size
        self._threads = _cores() if threads is None else threads
        self._workers, self._prefetch_bytes = workers, prefetch_mib << 20
        self._sharding = None if mesh is None else parallel.batch_sharding(mesh)
        self.examples = blocks.order.epoch
        self.class_names = blocks.pool.class_names
        self.sizes = tuple(map(len, blocks.pool.members))
        if mesh is not None:
            _require_divides(self.batch_size, self._sharding, where)
        self._rows = self.rows()
        self.spec = {
            key: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype, sharding=self._sharding)
            for key, (shape, dtype) in blocks.keys.items()
        }

    def __len__(self) -> int:
        if self._batches is None:
            raise TypeError("the stream of training batches has no end")
        return self._batches

    def indices(self, i: int) -> Int[np.ndarray, " b"]:
        """Rows of batch `i` in the split, before any `part`: see name_of. -1 on padding."""
        ranks = i * self.batch_size + np.arange(self.batch_size)
        return self._blocks.split_rows(self._blocks.order(ranks)[0])

    def name_of(self, row: int) -> str:
        """File or row behind an entry of `indices` or of a batch's "index"."""
        return self._blocks.pool.name_of(int(row))

    def captions(self, i: int, tokens: Int[np.ndarray, "b length"]) -> list[str]:
        """What the tokens of batch `i`, whole or its first rows, say: see TextTransform.caption."""
        ranks = i * self.batch_size + np.arange(len(tokens))
        positions = self._blocks.order(ranks)[0].tolist()
        members, member_of = self._blocks.pool.members, self._blocks.pool.member_of
        return [
            members[member_of(position)[0]].text.caption(row) if position >= 0 else ""
            for position, row in zip(positions, tokens, strict=True)
        ]

    def rows(self, devices: Collection[jax.Device] | None = None) -> Int[np.ndarray, " r"]:
        """Rows of the global batch on `devices`, ascending (default: those of this process)."""
        if self._sharding is None:
            return np.arange(self.batch_size)
        spans = self._sharding.devices_indices_map((self.batch_size,))
        own = self._sharding.addressable_devices if devices is None else devices
        held = {spans[device][0].indices(self.batch_size)[:2] for device in own}
        return np.concatenate([np.arange(*span) for span in sorted(held)])

    def host_batch(self, i: int, devices: Collection[jax.Device] | None = None) -> Arrays:
        """Batch `i` as numpy arrays: the rows on `devices` (default: those of this process)."""
        return self.host_block(i, devices).arrays

    def host_block(self, i: int, devices: Collection[jax.Device] | None = None) -> Block:
        """As host_batch, with the examples that could not be used for it."""
        return self._blocks.make(i, self._rows if devices is None else self.rows(devices))

    def __getitem__(self, i: int) -> dict[str, jax.Array]:
        """Batch `i` as global arrays, made here and now; `iterate` makes them ahead."""
        if i < 0 or (self._batches is not None and i >= self._batches):
            raise IndexError(f"batch {i} of a stream of {self._batches or 'endless'} batches")
        return self._join([self.host_block(i)])[0]

    def iterate(self, start: int = 0, stop: int | None = None) -> Prefetched[dict[str, jax.Array]]:
        """Batches start, start + 1, ..., stop - 1 as global arrays, made in the background.

        Waiting batches take at most `prefetch_mib` of host memory, or three batches where that is
        more. `stop` None: to the last batch, or without end.
        """
        import grain

        stop = self._batches if stop is None else stop
        rows = np.array_split(self._rows, -(-len(self._rows) // BLOCK))
        per_batch = len(rows)
        last = 2**62 if stop is None else max(stop, start) * per_batch
        ahead, threads = self._ahead(len(rows[0]), per_batch)
        made = grain.MapDataset.range(start * per_batch, last).map(_Block(self._blocks, rows))
        if self._workers:
            made = _in_processes(made, self._workers, threads, ahead)
        else:
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
            made = made.to_iter_dataset(options)
        return Prefetched(
            iter(made), None if stop is None else max(stop - start, 0), per_batch, self._join
        )

    def _ahead(self, block: int, per_batch: int) -> tuple[int, int]:
        """Blocks that may wait for their batch, and threads that make them.

        Beside them stand one batch on its way to the devices and one that is there.
        """
        row_bytes = sum(
            np.prod(s, dtype=np.int64) * np.dtype(d).itemsize for s, d in self._blocks.keys.values()
        )
        affordable = int(self._prefetch_bytes // (block * row_bytes)) - 2 * per_batch
        useful = max(4 * per_batch, 2 * self._threads * max(self._workers, 1))
        ahead = max(min(affordable, useful), per_batch)
        return ahead, min(self._threads, ahead)

    def _join(self, blocks: list[Block]) -> tuple[dict[str, jax.Array], tuple[Skipped, ...]]:
        whole = joined(blocks)
        batch: dict[str, Any] = self.to_devices(whole.arrays)
        if self._blocks.every_caption:
            batch["captions"] = whole.captions
        return batch, whole.skipped

    def to_devices(self, host: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Global arrays from this process's rows of them, `rows()`, laid out as batches are."""
        if self._sharding is None:
            return jax.device_put(host)

        def shard_of(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(self.batch_size)
            offset = int(np.searchsorted(self._rows, start))
            return array[offset : offset + stop - start]

        return {
            key: jax.make_array_from_callback(
                (self.batch_size, *array.shape[1:]),
                self._sharding,
                functools.partial(shard_of, array),
            )
            for key, array in host.items()
        }


class _Block:
    """Block j of a stream: what grain's threads and processes call."""

    def __init__(self, blocks: Blocks, rows: list[Int[np.ndarray, " r"]]):
        self._blocks, self._rows = blocks, rows

    def __call__(self, j: int) -> Block:
        batch, part = divmod(int(j), len(self._rows))
        return self._blocks.make(batch, self._rows[part])


def _in_processes(made: Any, workers: int, threads: int, ahead: int) -> Any:
    """The blocks made by worker processes, in the same order."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain's workers read a flag of its own
        flags.FLAGS.mark_as_parsed()
    each = max(ahead // workers, 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=each)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return made.to_iter_dataset(options).mp_prefetch(processes)


def _examples(split: Split, seed: int, where: str, decoded_bytes: int) -> Examples:
    transform = transforms.parse(split.transform, f"{where}.transform")
    text = None
    if split.text:
        from big_vit_lite.data import text as grammar

        text = grammar.parse(split.text, f"{where}.text")
    source = sources.build(split, where)
    return Examples(source, transform, seed, decoded_bytes, text, split.captions)


def _require_classes(split: Split, examples: Examples, where: str) -> None:
    if split.sampler != "shuffle" and not examples.source.class_names:
        raise InputError(
            f'{where}.sampler "{split.sampler}" goes by classes, and beside text no labels are '
            f"read; name them with {where}.label_key, or take sampler shuffle"
        )


def _seed(seed: int, where: str) -> int:
    sequence = np.random.SeedSequence([seed, zlib.crc32(where.encode())])
    return int(sequence.generate_state(1)[0])


def _cores() -> int:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    return min(len(usable), MOST_THREADS)


def _require_divides(batch_size: int, sharding: jax.sharding.NamedSharding, where: str) -> None:
    try:
        sharding.shard_shape((batch_size,))
    except ValueError:
        mesh = sharding.mesh.shape
        parts = mesh["data"] * mesh["fsdp"]
        raise InputError(
            f"{where} is {batch_size}, which does not divide over mesh.data x mesh.fsdp = {parts}; "
            f"take a multiple of {parts}"
        ) from None
