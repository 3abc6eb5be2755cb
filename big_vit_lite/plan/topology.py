"""TPU slices by the names that people use, and their devices without having them.

libtpu from the package index compiles for any slice on any Linux machine. It knows slices as
"v5e:4x4"; Cloud TPU sells them as "v5litepod-16", and everybody says v5e-16. Numbers count chips
for v5e and v6e, and cores, of which a chip has two, for all others: v4-32 is 16 chips.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import NamedTuple

import jax

from big_vit_lite.config import InputError

# libtpu serves as compiler only: it asks no metadata server (which takes minutes where packets are
# dropped), does not look for chips, and lets several processes compile at once.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Generation(NamedTuple):
    """How slices of one generation are named and laid out.

    Attributes:
        cores: what a name's number counts on each chip: 1 chips, 2 cores.
        devices: JAX devices a chip.
        shapes: slices on offer, as chips along each side of the torus.
        slices: whether several slices can train together (Multislice).
    """

    cores: int
    devices: int
    shapes: tuple[tuple[int, ...], ...]
    slices: bool = True


def _shapes(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, shape.split("x"))) for shape in text.split())


_CUBES = _shapes(
    "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16 16x16x24"
)
_SQUARES = _shapes("1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16")
# cloud.google.com/tpu/docs, the page of each generation.
GENERATIONS = {
    "v2": Generation(2, 2, _shapes("2x2 4x4 8x8 8x16 16x16"), slices=False),
    "v3": Generation(2, 2, _shapes("2x2 4x4 4x8 8x8 8x16 16x16 16x32 32x32"), slices=False),
    "v4": Generation(2, 1, _CUBES[:-1]),
    "v5e": Generation(1, 1, _SQUARES),
    "v5p": Generation(2, 1, _CUBES),
    "v6e": Generation(1, 1, _SQUARES),
    "tpu7x": Generation(2, 2, _CUBES),
}
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v5": "v5p", "v6": "v6e", "v7x": "tpu7x"}
_NAME = re.compile(r"(?:(\d+)x)?([a-z]+\d+[a-z]*)[-:](\d+(?:x\d+)*)")
_EXAMPLES = "v5e:4x4, v5e-16, v4-32, v5p-128, v6e-256 or, for two slices, 2xv5e-16"


@dataclass(frozen=True)
class Topology:
    """Equal slices of one generation; `str()` gives the canonical name, such as "2xv5e:4x4".

    Attributes:
        shape: chips along each side of one slice.
    """

    generation: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """JAX devices: one a chip, but two on v2, v3 and 7x."""
        return self.chips * GENERATIONS[self.generation].devices

    def __str__(self) -> str:
        times = f"{self.slices}x" if self.slices > 1 else ""
        return f"{times}{self.generation}:{_times(self.shape)}"


def parse(text: str) -> Topology:
    """Reads "v5e:4x4", "v5e-16", "v5litepod-16", "v4-32", "2xv5e-16".

    Raises:
        ValueError: its text names the nearest slices, to be put behind the option's name.
    """
    match = _NAME.fullmatch(text.strip().lower())
    if match is None:
        near = difflib.get_close_matches(text.lower(), _names(), n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"such as {_EXAMPLES}"
        raise ValueError(f"is no TPU slice; {hint}")
    slices, name, size = int(match[1] or 1), match[2], match[3]
    name = ALIASES.get(name, name)
    if name not in GENERATIONS:
        raise ValueError(f"is of no known generation; known are {', '.join(GENERATIONS)}")
    known = GENERATIONS[name]
    if slices < 1 or (slices > 1 and not known.slices):
        raise ValueError(f"wants one slice: {name} slices do not train together")
    if "x" in size:
        shape = tuple(map(int, size.split("x")))
        if shape not in known.shapes:
            raise ValueError(f"is no slice of {name}; {_nearest(name, math.prod(shape), slices)}")
        return Topology(name, shape, slices)
    for shape in known.shapes:
        if math.prod(shape) * known.cores == int(size):
            return Topology(name, shape, slices)
    chips = max(1, int(size) // known.cores)
    counted = "cores, two a chip" if known.cores == 2 else "chips"
    raise ValueError(
        f"is no slice of {name}, whose number counts {counted}; {_nearest(name, chips, slices)}"
    )


def devices(topology: Topology) -> list:
    """Devices to compile for, as JAX would show them on the slice itself; needs no TPU.

    From here on JAX computes on the CPU in this process, whatever else the machine has.

    Raises:
        InputError: libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "--topology needs libtpu, which compiles for TPUs on any Linux machine; install it "
            f"with: pip install 'jax[tpu]=={jax.__version__}'"
        )
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    # What is compiled for absent devices is written to the cache, but cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
    from jax.experimental import topologies

    known = GENERATIONS[topology.generation]
    options = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if known.cores > known.devices:
        options["chip_config_name"] = "megacore"  # two cores as one device
    if any(side % 2 for side in topology.shape[:2]):
        sides = (*topology.shape, 1)[:3]
        options["chips_per_host_bounds"] = sides  # less than the usual 2x2 chips a host
    name = f"{topology.generation}:{_times(topology.shape)}"
    try:
        return list(
            topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"--topology {topology}: libtpu does not know it ({_first_line(error)}); "
            "an upgrade may: pip install -U 'jax[tpu]'"
        ) from error


def _names() -> list[str]:
    return [f"{name}{form}" for name in GENERATIONS for form in _forms(name)]


def _forms(name: str) -> list[str]:
    known = GENERATIONS[name]
    return [
        form
        for shape in known.shapes
        for form in (f"-{math.prod(shape) * known.cores}", f":{_times(shape)}")
    ]


def _nearest(name: str, chips: int, slices: int) -> str:
    """The slices next below and above a number of chips, in both ways of writing."""
    known, times = GENERATIONS[name], f"{slices}x" if slices > 1 else ""
    below = [shape for shape in known.shapes if math.prod(shape) <= chips][-1:]
    above = [shape for shape in known.shapes if math.prod(shape) > chips][:1]
    shown = [
        f"{times}{name}-{math.prod(shape) * known.cores} ({times}{name}:{_times(shape)})"
        for shape in (*below, *above)
    ]
    return f"the nearest {'is' if len(shown) == 1 else 'are'} {' and '.join(shown)}"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ").rstrip(".")
