"""Train and evaluate Vision Transformers in JAX.

The public names load on first use, so that `import big_vit_lite` costs next to nothing.
"""

from big_vit_lite import lazy

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = lazy.names(
    __name__, {"build_model": "models", "init_params": "models", "load": "pretrained"}
)
__all__ += ["__version__"]
