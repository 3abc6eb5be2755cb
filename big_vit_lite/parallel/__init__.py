"""Meshes, sharding rules, and the compiled training step.

Names load on first use: models need `constrain` only, and configs need none of it.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
        "OPTIONS": "cluster",
        "ending": "failure",
        "join": "cluster",
        "is_shared": "failure",
        "several": "failure",
        "Votes": "peers",
        "by_first": "peers",
        "gather": "peers",
        "is_first": "peers",
        "BATCH": "mesh",
        "axis_size": "mesh",
        "batch_sharding": "mesh",
        "constrain": "mesh",
        "make_mesh": "mesh",
        "replicated": "mesh",
        "split_tokens": "mesh",
        "whole_tokens": "mesh",
        "gather_weights": "rules",
        "leaf_spec": "rules",
        "relayout": "rules",
        "state_shardings": "rules",
        "with_shardings": "rules",
        "path_name": "rules",
        "weights_are_split": "rules",
        "TEACHER": "training",
        "Training": "training",
        "abstract_state": "training",
        "compile_training": "training",
        "shard_bytes": "training",
        "start": "runtime",
    },
)
