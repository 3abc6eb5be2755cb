"""Orders: which example stands at a place of an endless stream, as a pure function of the place.

A rank is a place in the stream, counted from 0. An order gives for each rank a position in the
source and the visit: how often that example has stood in the stream before. (position, visit) never
comes twice, so that it can key the augmentation.
"""

from __future__ import annotations

import functools
import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError

# What a seed is used for: equal seeds give unrelated orders and augmentations.
SHUFFLE, AUGMENT, REPLACE = 1, 2, 3

LONGEST_PERIOD = 100_000  # slots of a mixture before it repeats: five digits of every weight

Ranks = Int[np.ndarray, " b"]


class Order(ABC):
    """An endless order.

    Attributes:
      epoch: ranks in one pass.
    """

    epoch: int

    @abstractmethod
    def __call__(self, ranks: Ranks) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Positions in the source and visits of these ranks."""


class Once(Order):
    """Every example once, in the order of the source; position -1 from there on."""

    def __init__(self, examples: int):
        self.epoch = examples

    def __call__(self, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        return np.where(ranks < self.epoch, ranks, -1), np.zeros_like(ranks)


class Shuffled(Order):
    """Every example once an epoch, each epoch by a random-access permutation of its own."""

    def __init__(self, examples: int, seed: int):
        self.epoch, self._seed = examples, seed

    @functools.cached_property
    def _permuted(self) -> Any:
        import grain

        return grain.experimental.index_shuffle

    def _epoch_seed(self, epoch: int) -> int:
        # grain's own MapDataset.shuffle takes seed + epoch, so that runs with neighbouring seeds
        # would see the same orders, one epoch apart.
        sequence = np.random.SeedSequence([self._seed, SHUFFLE, epoch])
        return int(sequence.generate_state(1)[0])

    def __call__(self, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        epochs, offsets = np.divmod(ranks, self.epoch)
        seeds = {epoch: self._epoch_seed(epoch) for epoch in np.unique(epochs).tolist()}
        permuted, last = self._permuted, self.epoch - 1
        positions = [
            permuted(offset, max_index=last, seed=seeds[epoch], rounds=4)
            for offset, epoch in zip(offsets.tolist(), epochs.tolist(), strict=True)
        ]
        return np.array(positions, np.int64), epochs


class ByClass(Order):
    """Shuffled, with a stated share for every class.

    `kind` is
      stratified: every example once an epoch, those of a class spread evenly over it, so that a
        batch holds each class nearly in its share of the data;
      balanced: each class once in every C ranks, of C classes;
      oversample: each class as often as the largest one, shuffled;
      undersample: each class as often as the smallest one, shuffled.

    The uses of a class run through its examples, shuffled anew on each pass, from epoch to epoch:
    over time all examples of a class are used equally often under any kind. An epoch of n = 1.3 M
    examples is laid out at once, in some 0.3 s, and kept until the next but one.
    """

    KEPT = 2  # epochs: threads are in the last one while others begin the next

    def __init__(self, labels: Int[np.ndarray, " n"], kind: str, seed: int):
        self._seed, self._kind = seed, kind
        _, of_row, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        rows = np.argsort(of_row, kind="stable")
        self._members = np.split(rows, np.cumsum(sizes)[:-1])
        uses = {
            "stratified": sizes,
            "balanced": np.full_like(sizes, -(-len(labels) // len(sizes))),
            "oversample": np.full_like(sizes, sizes.max()),
            "undersample": np.full_like(sizes, sizes.min()),
        }
        self._uses = uses[kind]  # of each class in an epoch
        self.epoch = int(self._uses.sum())
        self._start_cache()

    def _start_cache(self) -> None:
        self._laid: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_laid", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def __call__(self, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        epochs, offsets = np.divmod(ranks, self.epoch)
        positions, visits = np.empty_like(offsets), np.empty_like(offsets)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            laid = self._epoch(epoch)
            positions[here], visits[here] = (column[offsets[here]] for column in laid)
        return positions, visits

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if epoch not in self._laid:
                self._laid[epoch] = self._lay_out(epoch)
                while len(self._laid) > self.KEPT:
                    self._laid.popitem(last=False)
            return self._laid[epoch]

    def _lay_out(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and visits of one epoch."""
        drawn = [self._drawn(c, epoch) for c in range(len(self._members))]
        positions, visits = (np.concatenate(column) for column in zip(*drawn, strict=True))
        order = self._arranged(_generator(self._seed, SHUFFLE, epoch))
        return positions[order], visits[order]

    def _drawn(self, c: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and visits of class `c` in an epoch, in the order of its own uses."""
        members, count = self._members[c], int(self._uses[c])
        first, stop = epoch * count, (epoch + 1) * count
        visits, places = np.divmod(np.arange(first, stop), len(members))
        positions = np.empty(count, np.int64)
        for visit in range(first // len(members), -(-stop // len(members))):
            shuffled = _generator(self._seed, SHUFFLE, c, visit).permutation(members)
            here = visits == visit
            positions[here] = shuffled[places[here]]
        return positions, visits

    def _arranged(self, draw: np.random.Generator) -> np.ndarray:
        """Order in which the uses of all classes, one class after the other, stand in an epoch."""
        if self._kind in ("oversample", "undersample"):
            return draw.permutation(self.epoch)
        starts = np.cumsum(self._uses) - self._uses
        if self._kind == "balanced":
            rounds, classes = int(self._uses[0]), len(self._uses)
            turns = draw.permuted(np.tile(np.arange(classes), (rounds, 1)), axis=1)
            return (starts[turns] + np.arange(rounds)[:, None]).ravel()
        # Use j of a class with m uses stands at time (j + phase) / m of the epoch.
        phases = draw.random(len(self._uses))
        times = [(np.arange(m) + p) / m for m, p in zip(self._uses, phases, strict=True)]
        return np.argsort(np.concatenate(times), kind="stable")


class Repeated(Order):
    """Each example `times` times in a row, an epoch as many ranks long as without."""

    def __init__(self, order: Order, times: int):
        self._order, self._times, self.epoch = order, times, order.epoch

    def __call__(self, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        outer, inner = np.divmod(ranks, self._times)
        positions, visits = self._order(outer)
        return positions, visits * self._times + inner


class Mixture(Order):
    """Several orders, each with its exact share of the ranks.

    After t ranks, order k has stood floor(t w_k / W) or one more times (W: sum of the weights): the
    quota method of Balinski and Young (1975). The pattern repeats when the weights, as fractions,
    come out whole. Positions are those of the sources laid side by side. An epoch is one pass over
    the first order.

    Raises:
      InputError: weights of more digits than LONGEST_PERIOD allows.
    """

    def __init__(
        self, orders: Sequence[Order], weights: Sequence[float], sizes: Sequence[int], where: str
    ):
        self._orders = orders
        self._offsets = np.cumsum([0, *sizes[:-1]])
        self._weights = _whole(weights, where)
        self._slots = _quota(self._weights)
        taken = self._slots[:, None] == np.arange(len(orders))
        self._before = (np.cumsum(taken, axis=0) - taken)[np.arange(len(taken)), self._slots]
        self.epoch = round(orders[0].epoch * len(self._slots) / self._weights[0])

    def __call__(self, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        periods, slots = np.divmod(ranks, len(self._slots))
        sources = self._slots[slots]
        inner = periods * self._weights[sources] + self._before[slots]
        positions, visits = np.empty_like(inner), np.empty_like(inner)
        for k in np.unique(sources).tolist():
            here = sources == k
            found, visits[here] = self._orders[k](inner[here])
            positions[here] = found + self._offsets[k]
        return positions, visits


def _whole(weights: Sequence[float], where: str) -> Int[np.ndarray, " k"]:
    """The smallest whole numbers in the same proportion."""
    fractions = [Fraction(repr(w)) for w in weights]
    common = math.lcm(*(f.denominator for f in fractions))
    numbers = [int(f * common) for f in fractions]
    numbers = [n // math.gcd(*numbers) for n in numbers]
    if sum(numbers) > LONGEST_PERIOD:
        given = ", ".join(f"{w:g}" for w in weights)
        raise InputError(
            f"{where}: the weights {given} come out whole only after {sum(numbers)} examples, and "
            f"{LONGEST_PERIOD} is the most; round them, for example to three digits"
        )
    return np.array(numbers, np.int64)


def _quota(weights: Int[np.ndarray, " k"]) -> Int[np.ndarray, " period"]:
    """Which of k has each slot of a period; counts never leave their quota by one or more."""
    period, counts = int(weights.sum()), np.zeros_like(weights)
    slots = np.empty(period, np.int64)
    for t in range(period):
        due = np.where(counts * period < weights * (t + 1), (counts + 1) / weights, np.inf)
        slots[t] = k = int(np.argmin(due))
        counts[k] += 1
    return slots


def sampled(
    kind: str, examples: int, labels: Callable[[], Int[np.ndarray, " n"]], repeats: int, seed: int
) -> Order:
    """The order that a split's `sampler` and `repeats` ask for."""
    plain = kind == "shuffle"
    order = Shuffled(examples, seed) if plain else ByClass(np.asarray(labels()), kind, seed)
    return order if repeats == 1 else Repeated(order, repeats)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
