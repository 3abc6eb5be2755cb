"""From files to global device batches: sources, transforms, and streams of (seed, step).

Names load on first use: the grammar of transforms needs neither JAX nor grain.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
        "train_stream": "stream",
        "eval_stream": "stream",
        "file_stream": "stream",
        "BatchStream": "stream",
        "made_by": "prepared",
        "Skipped": "examples",
        "Skips": "skips",
        "sources": "sources",
        "text": "text",
        "transforms": "transforms",
    },
)
