"""Train and evaluate Vision Transformers in JAX.

The public names load on first use, so that `import big_vit_lite` costs next to nothing.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "build_model": "big_vit_lite.models",
    "init_params": "big_vit_lite.models",
    "load": "big_vit_lite.pretrained",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'big_vit_lite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
