"""What a training run will take, before it is paid for: memory, collectives, the fastest step.

`python -m big_vit_lite.train --config FILE --dry_run --topology v5e:4x4` compiles the very step
that training runs, for devices that need not be there.
"""

from big_vit_lite.plan.batches import Batches, unread
from big_vit_lite.plan.command import OPTIONS, main
from big_vit_lite.plan.make import Plan, make
from big_vit_lite.plan.topology import Topology, devices, parse

__all__ = ["OPTIONS", "Batches", "Plan", "Topology", "devices", "main", "make", "parse", "unread"]
