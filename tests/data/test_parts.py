"""Parts of a split: exact counts, disjoint and complete, stratified, and clear refusals."""

import numpy as np
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.data import parts

LABELS = np.random.default_rng(0).integers(0, 7, 1797)


def rows(part, labels=LABELS):
    return np.asarray(parts.select(part, len(labels), lambda: labels)).tolist()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("[:]", range(1797)),
        ("[1415:]", range(1415, 1797)),
        ("[:-10]", range(1787)),
        ("[-10:]", range(1787, 1797)),
        ("[10:20]", range(10, 20)),
        ("[:50%]", range(899)),  # 898.5, halves up
        ("[50%:]", range(899, 1797)),
        ("[99.9%:]", range(1795, 1797)),
        ("[100:]|[:10%]", range(100, 270)),
    ],
)
def test_slices(part, expected):
    assert rows(part) == list(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 99, 100, 101, 1797])
@pytest.mark.parametrize("percent", ["1%", "33.3%", "50%", "99%"])
def test_slices_at_one_percentage_are_disjoint_and_complete(n, percent):
    found = []
    for part in (f"[:{percent}]", f"[{percent}:]"):
        try:
            found += list(parts.select(part, n, None))
        except InputError as error:
            assert "keeps none" in str(error)
    assert found == list(range(n))


@pytest.mark.parametrize("size", ["20%", "360", "0.3%", "99.9%"])
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_and_rest_are_disjoint_complete_and_stratified(size, seed):
    held, rest = (rows(f"{which}({size}, seed={seed})") for which in ("held_out", "rest"))
    assert sorted(held + rest) == list(range(1797))
    share = float(size[:-1]) / 100 if size.endswith("%") else int(size) / 1797
    assert len(held) == round(share * 1797)
    for label in range(7):
        members = np.count_nonzero(label == LABELS)
        assert abs((LABELS[held] == label).sum() - len(held) / 1797 * members) < 1


def test_held_out_depends_on_the_seed_and_on_nothing_else():
    assert rows("held_out(20%, seed=3)") == rows("held_out(20%,seed=3)")
    assert rows("held_out(20%)") == rows("held_out(20%, seed=0)")
    common = set(rows("held_out(20%, seed=0)")) & set(rows("held_out(20%, seed=1)"))
    assert 0.1 < len(common) / 359 < 0.3  # independent draws share a fifth


def test_chained_parts_take_what_is_left():
    train = rows("rest(20%, seed=0)|rest(15%, seed=1)")
    tune = rows("rest(20%, seed=0)|held_out(15%, seed=1)")
    test = rows("held_out(20%, seed=0)")
    assert sorted(train + tune + test) == list(range(1797))
    assert len(tune) == round(0.15 * (1797 - len(test)))


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("[:2000]", "asks for example 2000 of only 1797"),
        ("[1797:]", "keeps none of 1797 examples"),
        ("[:120%]", "120% is more than there is"),
        ("[:0.5]", "did you mean 0.5%"),
        ("held(20%)", "'held(20%)' is not a part; write for example '[:99%]'"),
        ("[5]", "is not a part"),
        ("held_out(20%, 0)", "is not a part"),
        ("[:9]|", "'' is not a part"),
    ],
)
def test_refusals_name_the_key_and_the_part(part, text):
    with pytest.raises(InputError) as error:
        parts.select(part, 1797, lambda: LABELS, "data.val")
    assert str(error.value).startswith(f"data.val.part {part!r}: ")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_check_needs_no_data():
    assert parts.check("") == parts.check("rest(20%, seed=0)|[:99%]|[12:]") == []
    faults = parts.check("[:120%]|held(3)|[:9]")
    assert len(faults) == 2
    assert "120%" in faults[0]
    assert "'held(3)'" in faults[1]
