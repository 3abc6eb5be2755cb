"""Orders: shares of classes and mixtures, each example's visits, nothing carried along."""

import itertools
import pickle

import numpy as np
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.data.order import ByClass, Mixture, Once, Repeated, Shuffled, sampled

SIZES = (60, 25, 11, 4)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
KINDS = ("stratified", "balanced", "oversample", "undersample")


def ranks(start, stop):
    return np.arange(start, stop)


def of_class(kind, epochs, seed=0):
    order = ByClass(LABELS, kind, seed)
    positions, visits = order(ranks(0, epochs * order.epoch))
    return order, positions, visits


@pytest.mark.parametrize("kind", KINDS)
def test_no_example_has_the_same_visit_twice_and_visits_count_up(kind):
    _, positions, visits = of_class(kind, 7)
    pairs = list(zip(positions.tolist(), visits.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for row in range(len(LABELS)):
        seen = visits[positions == row]
        assert sorted(seen) == list(range(len(seen)))


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_a_class_are_used_equally_often(kind):
    _, positions, _ = of_class(kind, 7)
    for c in range(4):
        uses = np.bincount(positions, minlength=len(LABELS))[c == LABELS]
        assert uses.max() - uses.min() <= 1


@pytest.mark.parametrize(
    ("kind", "uses"),
    [
        ("stratified", SIZES),
        ("balanced", (25,) * 4),
        ("oversample", (60,) * 4),
        ("undersample", (4,) * 4),
    ],
)
def test_an_epoch_holds_each_class_in_its_share(kind, uses):
    order, positions, _ = of_class(kind, 3)
    assert order.epoch == sum(uses)
    for epoch in positions.reshape(3, -1):
        assert np.bincount(LABELS[epoch], minlength=4).tolist() == list(uses)
    assert not np.array_equal(*positions.reshape(3, -1)[:2])
    assert not np.array_equal(positions, of_class(kind, 3, seed=1)[1])


def test_balanced_rounds_hold_each_class_once_in_changing_turns():
    _, positions, _ = of_class("balanced", 4)
    rounds = LABELS[positions].reshape(-1, 4)
    assert (np.sort(rounds) == np.arange(4)).all()
    assert len(np.unique(rounds, axis=0)) > 18


def test_stratified_batches_hold_the_classes_of_the_data_and_shuffled_ones_do_not():
    labels = np.repeat(np.arange(10), np.arange(20, 220, 20))
    share = np.bincount(labels) / len(labels)

    def largest(order):
        positions, _ = order(ranks(0, 4 * len(labels)))
        counts = [np.bincount(labels[b], minlength=10) for b in positions.reshape(-1, 100)]
        return np.abs(counts - 100 * share).max()

    assert largest(ByClass(labels, "stratified", 0)) < 2.5
    assert largest(Shuffled(len(labels), 0)) > 5


@pytest.mark.parametrize("kind", ["shuffle", *KINDS])
def test_any_ranks_in_any_order_after_pickling_give_the_same(kind):
    order = sampled(kind, len(LABELS), lambda: LABELS, 2, 3)
    whole = order(ranks(0, 900))
    fresh = pickle.loads(pickle.dumps(sampled(kind, len(LABELS), lambda: LABELS, 2, 3)))
    some = np.random.default_rng(1).permutation(900)
    for found, wanted in zip(fresh(some), whole, strict=True):
        assert np.array_equal(found, wanted[some])


def test_repeats_stand_side_by_side_with_visits_of_their_own():
    order = Repeated(Shuffled(10, 0), 3)
    positions, visits = order(ranks(0, 60))
    assert order.epoch == 10
    assert (positions.reshape(20, 3) == Shuffled(10, 0)(ranks(0, 20))[0][:, None]).all()
    assert visits[:6].tolist() == [0, 1, 2] * 2
    assert visits[30:36].tolist() == [3, 4, 5] * 2


def test_once_ends_with_padding():
    positions, visits = Once(3)(ranks(0, 5))
    assert (positions.tolist(), visits.tolist()) == ([0, 1, 2, -1, -1], [0] * 5)


# Mixtures


@pytest.mark.parametrize(
    "weights", [(1, 1), (0.7, 0.2, 0.1), (3, 2, 2), (0.5, 0.333, 0.167), (100, 1), (1, 1, 1, 5, 9)]
)
def test_shares_of_a_mixture_never_leave_their_quota(weights):
    sizes = [70, 500, 300, 110, 200][: len(weights)]
    mixed = Mixture([Shuffled(n, k) for k, n in enumerate(sizes)], weights, sizes, "data.mix")
    positions, _ = mixed(ranks(0, 1200))
    source = np.searchsorted(np.cumsum(sizes), positions, side="right")
    share = np.array(weights) / sum(weights)
    for k in range(len(weights)):
        ahead = np.cumsum(source == k) - share[k] * np.arange(1, 1201)
        assert np.abs(ahead).max() < 1 - 1e-9
    # Each source's own order is untouched.
    for k, start in enumerate(itertools.accumulate([0, *sizes[:-1]])):
        own = positions[source == k] - start
        assert np.array_equal(own, Shuffled(sizes[k], k)(ranks(0, len(own)))[0])


def test_mixtures_are_random_access_and_an_epoch_passes_the_first_source_once():
    orders = [Shuffled(30, 0), Shuffled(7, 1)]
    mixed = Mixture(orders, (0.75, 0.25), (30, 7), "data.mix")
    assert mixed.epoch == 40
    whole = mixed(ranks(0, 400))
    some = np.random.default_rng(1).permutation(400)
    assert all(np.array_equal(a, b[some]) for a, b in zip(mixed(some), whole, strict=True))
    assert sorted(whole[0][:40][whole[0][:40] < 30]) == list(range(30))


def test_weights_of_too_many_digits_are_refused():
    orders = [Shuffled(2, 0), Shuffled(2, 1)]
    with pytest.raises(InputError, match=r"^data.mix: the weights 1, 0.123457 .* round them"):
        Mixture(orders, (1.0, 0.1234567), (2, 2), "data.mix")
