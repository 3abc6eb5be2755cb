"""`python -m big_vit_lite.predict`: what a model says of image files.

    classify    the likeliest classes of each image, of a classifier
    zero_shot   which of some labels fits each image, of two towers
    embed       a vector for each image, into a .npy or .parquet file; resumable
    similar     which of embedded images are nearest to other images, or to texts

Names load on first use, so that importing the package costs nothing.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {"main": "command"},
)
