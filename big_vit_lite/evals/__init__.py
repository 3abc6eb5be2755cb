"""Evaluations: each runs over a finite stream, sees every example once, and returns numbers."""

import importlib

TYPES = {"classification": "big_vit_lite.evals.classification"}


def build(options, task, mesh):
    """The evaluation that `options.type` names, as an object with `run(params, stream)`."""
    return importlib.import_module(TYPES[options.type]).Evaluation(task, mesh)
