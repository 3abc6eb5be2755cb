"""scikit-learn's support vector machine on the quickstart's splits: the figure to be level with.

    python benchmarks/digits_svm.py --out results/quickstart/svm.json

The settings are those of scikit-learn's own digits example (gamma 0.001, C 1, the RBF kernel on raw
pixels), and the best of a small grid chosen by 5-fold cross-validation on the training part.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from big_vit_lite.data import parts

SPLITS = {
    **{f"random {s}": (f"rest(20%, seed={s})", f"held_out(20%, seed={s})") for s in (0, 1, 2)},
    "writers": ("[:1415]", "[1415:]"),
}
GRID = {"gamma": [0.0005, 0.001, 0.002, 0.004], "C": [1, 3, 10, 30]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    digits = load_digits()
    results = {"scikit-learn": sklearn.__version__, "command": "python benchmarks/digits_svm.py"}
    for name, (train, test) in SPLITS.items():
        rows = [
            parts.select(p, len(digits.data), lambda: digits.target, name) for p in (train, test)
        ]
        (x, y), (x_test, y_test) = ((digits.data[r], digits.target[r]) for r in rows)
        plain = SVC(gamma=0.001).fit(x, y)
        search = GridSearchCV(SVC(), GRID, cv=5).fit(x, y)
        results[name] = {
            "test_examples": len(y_test),
            "top1": plain.score(x_test, y_test),
            "top1_tuned": search.score(x_test, y_test),
            "tuned": search.best_params_,
        }
        print(name, results[name], flush=True)
    for key in ("top1", "top1_tuned"):
        results[f"random mean {key}"] = float(
            np.mean([results[f"random {seed}"][key] for seed in (0, 1, 2)])
        )
        print("random mean", key, results[f"random mean {key}"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
