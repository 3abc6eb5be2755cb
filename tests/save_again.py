"""Restores a run's state onto another mesh of two processes, and saves it somewhere else."""

import jax

from big_vit_lite import checkpoint, config, parallel
from big_vit_lite.checkpoint import meta


def main(argv):
    """SOURCE and TARGET are checkpoints/ directories."""
    source, target = argv
    assert (jax.process_count(), jax.device_count()) == (2, 8)
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    listing = meta.arrays(checkpoint.read_meta(source))
    abstract = {k: jax.ShapeDtypeStruct(shape, dtype) for k, (dtype, shape) in listing.items()}
    abstract = parallel.with_shardings(abstract, mesh)
    with checkpoint.Keeper(source) as keeper:
        state, said = keeper.restore(abstract)
    assert any(not leaf.is_fully_replicated for leaf in state.values())
    with checkpoint.Keeper(target) as keeper:
        keeper.save(said["step"], state, {"config": said["config"]})
