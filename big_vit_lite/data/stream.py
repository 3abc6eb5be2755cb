"""From (seed, step) to a batch: pure functions of the step, on one host or many.

Batch `i` holds the examples of ranks i * B ... (i + 1) * B - 1 in an endless order: epoch after
epoch, each shuffled anew by grain's random-access permutation. Nothing is carried from batch to
batch, so that a run starts at any step at once and the state of the input is the step. Each host
makes the rows of the global batch that its devices hold, as the sharding itself says; contents
therefore depend neither on the number of hosts nor on threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int

from big_vit_lite import parallel
from big_vit_lite.config import InputError
from big_vit_lite.data import sources, transforms
from big_vit_lite.data.examples import SHUFFLE, Examples
from big_vit_lite.data.prefetch import Prefetched

if TYPE_CHECKING:
    from big_vit_lite.config import Data, Split

BLOCK = 64  # examples one thread makes at a time: large batches are shared out, small ones whole
MOST_THREADS = 16


def train_stream(data: Data, seed: int, mesh: jax.sharding.Mesh | None = None) -> TrainStream:
    """The endless stream of `data.train` in batches of `data.batch_size`.

    Raises:
      InputError: the source or the transform cannot be used, or the batch does not divide.
    """
    examples = _examples(data.train, seed, "data.train")
    return TrainStream(
        examples, data.batch_size, seed, mesh, data.threads, data.prefetch_mib, "data.batch_size"
    )


def eval_stream(
    split: Split,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
    data: Data | None = None,
    where: str = "data.val",
) -> EvalStream:
    """Every example of `split` once, in order.

    Args:
      data: whose threads and prefetch_mib hold here too.
      where: name of the split's section in the config, for error texts.

    Raises:
      InputError: as train_stream.
    """
    examples = _examples(split, 0, where)
    threads, prefetch_mib = (data.threads, data.prefetch_mib) if data else (None, 512)
    return EvalStream(
        examples, batch_size, mesh, threads, prefetch_mib, f"the batch size of {where}"
    )


class BatchStream:
    """Random access to batches; see train_stream and eval_stream.

    Attributes:
      examples: number of examples.
      class_names: names by label.
      spec: {key: jax.ShapeDtypeStruct} of a global batch, with shardings where there is a mesh.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        mesh: jax.sharding.Mesh | None,
        threads: int | None,
        prefetch_mib: int,
        where: str,
    ):
        self._loaded, self._batch_size, self._threads = examples, batch_size, threads
        self._prefetch_bytes = prefetch_mib << 20
        self._sharding = None if mesh is None else parallel.batch_sharding(mesh)
        self.examples = len(examples.source)
        self.class_names = examples.source.class_names
        if mesh is not None:
            _require_divides(batch_size, self._sharding, where)
        self._rows = self.rows()
        self.spec = {
            key: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=self._sharding)
            for key, (shape, dtype) in self._keys().items()
        }

    def _keys(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape of one example and dtype, by key."""
        return {"image": (self._loaded.shape, np.uint8), "label": ((), np.int32)}

    def _order(self, ranks: Int[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the source (-1: padding) and epochs of these ranks of the stream."""
        raise NotImplementedError

    def _batches(self) -> int | None:
        """Number of batches; None where there is no end."""
        raise NotImplementedError

    def indices(self, i: int) -> Int[np.ndarray, " b"]:
        """Rows of batch `i` in the split, before any `part`: see name_of. -1 on padding."""
        ranks = i * self._batch_size + np.arange(self._batch_size)
        return self._split_rows(self._order(ranks)[0])

    def name_of(self, row: int) -> str:
        """File or row behind an entry of `indices` or of a batch's "index"."""
        return self._loaded.source.whole.name_of(int(row))

    def rows(self, devices: Collection[jax.Device] | None = None) -> Int[np.ndarray, " r"]:
        """Rows of the global batch on `devices`, ascending (default: those of this process)."""
        if self._sharding is None:
            return np.arange(self._batch_size)
        spans = self._sharding.devices_indices_map((self._batch_size,))
        own = self._sharding.addressable_devices if devices is None else devices
        held = {spans[device][0].indices(self._batch_size)[:2] for device in own}
        return np.concatenate([np.arange(*span) for span in sorted(held)])

    def host_batch(
        self, i: int, devices: Collection[jax.Device] | None = None
    ) -> dict[str, np.ndarray]:
        """Batch `i` as numpy arrays: the rows on `devices` (default: those of this process)."""
        return self._make(i, self._rows if devices is None else self.rows(devices))

    def __getitem__(self, i: int) -> dict[str, jax.Array]:
        """Batch `i` as global arrays, made here and now; `iterate` makes them ahead."""
        batches = self._batches()
        if i < 0 or (batches is not None and i >= batches):
            raise IndexError(f"batch {i} of a stream of {batches or 'endless'} batches")
        return self._to_devices(self.host_batch(i))

    def iterate(self, start: int = 0, stop: int | None = None) -> Prefetched[dict[str, jax.Array]]:
        """Batches start, start + 1, ..., stop - 1 as global arrays, made in the background.

        Waiting batches take at most `prefetch_mib` of host memory, or three batches where that is
        more. `stop` None: to the last batch, or without end.
        """
        import grain

        stop = self._batches() if stop is None else stop
        blocks = np.array_split(self._rows, -(-len(self._rows) // BLOCK))
        per_batch = len(blocks)

        def block(j: int) -> dict[str, np.ndarray]:
            return self._make(j // per_batch, blocks[j % per_batch])

        last = 2**62 if stop is None else max(stop, start) * per_batch
        ahead, threads = self._ahead(len(blocks[0]), per_batch)
        made = grain.MapDataset.range(start * per_batch, last).map(block)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return Prefetched(
            iter(made.to_iter_dataset(options)),
            None if stop is None else max(stop - start, 0),
            per_batch,
            self._join,
        )

    def _ahead(self, block: int, per_batch: int) -> tuple[int, int]:
        """Blocks that may wait for their batch, and threads that make them.

        Beside them stand one batch on its way to the devices and one that is there.
        """
        row_bytes = sum(
            np.prod(s, dtype=np.int64) * np.dtype(d).itemsize for s, d in self._keys().values()
        )
        affordable = int(self._prefetch_bytes // (block * row_bytes)) - 2 * per_batch
        threads = self._threads if self._threads is not None else _cores()
        useful = max(4 * per_batch, 2 * threads)
        ahead = max(min(affordable, useful), per_batch)
        return ahead, min(threads, ahead)

    def _make(self, i: int, rows: Int[np.ndarray, " r"]) -> dict[str, np.ndarray]:
        """These rows of global batch `i`."""
        positions, epochs = self._order(i * self._batch_size + rows)
        images, labels = self._loaded.load(positions, epochs)
        return {"image": images, "label": labels}

    def _split_rows(self, positions: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        row_of = self._loaded.source.row_of
        return np.array([row_of(p) if p >= 0 else -1 for p in positions.tolist()], np.int64)

    def _join(self, blocks: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
        if len(blocks) == 1:
            return self._to_devices(blocks[0])
        return self._to_devices(
            {key: np.concatenate([b[key] for b in blocks]) for key in self.spec}
        )

    def _to_devices(self, host: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        if self._sharding is None:
            return jax.device_put(host)

        def shard_of(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(self._batch_size)
            offset = int(np.searchsorted(self._rows, start))
            return array[offset : offset + stop - start]

        return {
            key: jax.make_array_from_callback(
                self.spec[key].shape, self._sharding, functools.partial(shard_of, array)
            )
            for key, array in host.items()
        }


class TrainStream(BatchStream):
    """Endless: every example once an epoch, a batch may reach from one epoch into the next."""

    def __init__(self, examples: Examples, batch_size: int, seed: int, *args: Any):
        self._seed = seed
        super().__init__(examples, batch_size, *args)

    def _batches(self) -> None:
        return None

    @functools.cached_property
    def _shuffle(self) -> Any:
        import grain

        return grain.experimental.index_shuffle

    def _epoch_seed(self, epoch: int) -> int:
        # grain's own MapDataset.shuffle takes seed + epoch, so that runs with neighbouring seeds
        # would see the same orders, one epoch apart.
        sequence = np.random.SeedSequence([self._seed, SHUFFLE, epoch])
        return int(sequence.generate_state(1)[0])

    def _order(self, ranks: Int[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray]:
        epochs, offsets = np.divmod(ranks, self.examples)
        seeds = {epoch: self._epoch_seed(epoch) for epoch in np.unique(epochs).tolist()}
        shuffle, last = self._shuffle, self.examples - 1
        positions = [
            shuffle(offset, max_index=last, seed=seeds[epoch], rounds=4)
            for offset, epoch in zip(offsets.tolist(), epochs.tolist(), strict=True)
        ]
        return np.array(positions, np.int64), epochs


class EvalStream(BatchStream):
    """Every example exactly once in order; the last batch is filled up and masked.

    Batches also hold "mask" (False on the filling) and "index" (row in the split, or -1).
    """

    def _batches(self) -> int:
        return -(-self.examples // self._batch_size)

    def __len__(self) -> int:
        return self._batches()

    def _keys(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        return {**super()._keys(), "mask": ((), np.bool_), "index": ((), np.int32)}

    def _order(self, ranks: Int[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray]:
        return np.where(ranks < self.examples, ranks, -1), np.zeros_like(ranks)

    def _make(self, i: int, rows: Int[np.ndarray, " r"]) -> dict[str, np.ndarray]:
        positions, _ = self._order(i * self._batch_size + rows)
        index = self._split_rows(positions).astype(np.int32)
        return {**super()._make(i, rows), "mask": positions >= 0, "index": index}


def _examples(split: Split, seed: int, where: str) -> Examples:
    transform = transforms.parse(split.transform, f"{where}.transform")
    return Examples(sources.build(split, where), transform, seed)


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
