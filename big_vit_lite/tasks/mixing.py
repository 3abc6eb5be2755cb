"""Mixing of examples on the device, inside the step: mixup, CutMix, or one of them at random.

Everything is drawn once a batch and has a fixed shape, so nothing compiles again. The partner of an
example is another one of the global batch, some places before it: the result does not depend on the
mesh, and only the rows at the edge of a shard travel.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_vit_lite import config

Images = Float[Array, "b h w c"]
Targets = Float[Array, "b classes"]


def mix(
    images: Images, targets: Targets, task: config.Task, key: jax.Array, distance: int = 1
) -> tuple[Images, Targets]:
    """Mixes as `task.mixup`, `task.cutmix` and `task.cutmix_share` say; the one draw of a step.

    Where both are on, CutMix is taken with probability `cutmix_share`, else mixup (timm, DeiT).
    `distance` is how many places before an example its partner stands; see `partner_distance`.
    """
    if task.cutmix <= 0:
        return mixup(images, targets, task.mixup, key, distance)
    if task.mixup <= 0:
        return cutmix(images, targets, task.cutmix, key, distance)
    which, share_key, centre_key = jax.random.split(key, 3)
    cuts = jax.random.bernoulli(which, task.cutmix_share)
    alpha = jnp.where(cuts, task.cutmix, task.mixup)
    drawn = jax.random.beta(share_key, alpha, alpha)  # one draw for both: it compiles slowly
    size = images.shape[1:3]
    box_keep, box_share = box(size, drawn, *draw_pixel(size, centre_key))
    share = larger(drawn)
    keep = jnp.where(cuts, box_keep, share)
    return blend(images, targets, keep, jnp.where(cuts, box_share, share), distance)


def mixup(
    images: Images, targets: Targets, alpha: float, key: jax.Array, distance: int = 1
) -> tuple[Images, Targets]:
    """x = λ x_i + (1-λ) x_j and likewise the targets, λ ~ Beta(alpha, alpha) (Zhang 2018).

    λ is taken as max(λ, 1-λ): the pairs are ordered, hence the distribution of mixed examples is
    the same, and an example always keeps the larger share.
    """
    if alpha <= 0:
        return images, targets
    share = larger(jax.random.beta(key, alpha, alpha))
    return blend(images, targets, share, share, distance)


def cutmix(
    images: Images, targets: Targets, alpha: float, key: jax.Array, distance: int = 1
) -> tuple[Images, Targets]:
    """A box of x_i comes from x_j, and targets are blended by its area (Yun 2019); see `box`."""
    share_key, centre_key = jax.random.split(key)
    share, size = jax.random.beta(share_key, alpha, alpha), images.shape[1:3]
    weights = box(size, share, *draw_pixel(size, centre_key))
    return blend(images, targets, *weights, distance)


def blend(
    images: Images,
    targets: Targets,
    keep: Float[Array, "h w"] | Float[Array, ""],
    share: Float[Array, ""],
    distance: int = 1,
) -> tuple[Images, Targets]:
    """Each example with its partner: pixels by `keep`, which is 1 for its own, targets by `share`.

    The partner stands `distance` places before it, at the start of the batch near its end.
    """

    def mixed(x, weight):
        return weight * x + (1.0 - weight) * jnp.roll(x, distance, axis=0)

    return mixed(images, keep[..., None]), mixed(targets, share)


def larger(share: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.maximum(share, 1.0 - share)


def draw_pixel(size: tuple[int, int], key: jax.Array) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Row and column of a pixel, all equally likely."""
    row_key, column_key = jax.random.split(key)
    row = jax.random.randint(row_key, (), 0, size[0])
    return row, jax.random.randint(column_key, (), 0, size[1])


def box(
    size: tuple[int, int], share: Float[Array, ""], row: Int[Array, ""], column: Int[Array, ""]
) -> tuple[Float[Array, "h w"], Float[Array, ""]]:
    """CutMix's weights for images of `size` (h, w): 0 in a box, 1 elsewhere, and their mean.

    Sides are sqrt(1 - share) of the image's, whole pixels, about (row, column); what lies beyond
    the edge is lost. Hence the mean, by which targets are blended, is at least `share`: it counts
    the pixels that were kept (Yun 2019, algorithm A1; timm's correct_lam).
    """
    side = jnp.sqrt(1.0 - share)

    def inside(length: int, centre) -> tuple[jax.Array, jax.Array]:
        cut = jnp.floor(length * side).astype(jnp.int32)
        low = jnp.clip(centre - cut // 2, 0, length)
        high = jnp.clip(centre + (cut + 1) // 2, 0, length)
        place = jnp.arange(length)
        return (low <= place) & (place < high), high - low

    rows, height = inside(size[0], row)
    columns, width = inside(size[1], column)
    keep = 1.0 - (rows[:, None] & columns[None, :]).astype(jnp.float32)
    return keep, 1.0 - height * width / (size[0] * size[1])


def partner_distance(data: config.Data) -> int:
    """How far apart partners stand so that no example meets a copy of itself.

    With `repeats` = r the copies of an image follow each other; in a mixture others stand between,
    and a split has more than r of any (r + 1) / share places. Half the batch at most.
    """
    splits = [data.train, *data.mix.values()]
    repeated = [split for split in splits if split.repeats > 1]
    if not repeated:
        return 1
    if len(splits) == 1:
        distance = data.train.repeats
    else:
        total = sum(split.weight for split in splits)
        distance = max(math.ceil((s.repeats + 1) * total / s.weight) for s in repeated)
    return max(1, min(distance, data.batch_size // 2))
