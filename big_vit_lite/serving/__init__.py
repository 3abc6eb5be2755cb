"""Models for serving: exported once, then loaded where neither Flax nor this project's models are.

`load` and `Served` need jax, NumPy and flatbuffers alone; `export` needs all that loading a model
needs. Names load on first use.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
        "BadArtifact": "loading",
        "Served": "loading",
        "export": "exporting",
        "load": "loading",
    },
)
