"""What the machine could do and has used: peak rates of a device, peak memory."""

import functools
import math
import os
import resource
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Peaks(NamedTuple):
    """What one JAX device can do at most; a TPU v2, v3 or 7x chip is two devices.

    Attributes:
        flops: FLOP/s in bfloat16, dense matrices, float32 accumulation.
        memory: bytes/s between main memory and the compute units.
        links: bytes/s that it receives from its neighbours, over all links together.
        network: bytes/s that it receives from other slices or hosts; None where not published.
        capacity: bytes of main memory that a program may take; None: ask the device.
    """

    flops: float
    memory: float
    links: float
    network: float | None = None
    capacity: int | None = None


def _gib(n: float) -> int:
    return int(n * 2**30)


# Rates: cloud.google.com/tpu/docs, the page of each generation (v2, v3: Jouppi 2020, "A domain-
# specific supercomputer"; network of v4: that of v5p). Links are half of what is called
# bidirectional there. Capacity: what XLA's TPU compiler (libtpu 0.0.42) enforces.
_TPU = {
    "TPU v2": Peaks(22.5e12, 350e9, 124e9, None, _gib(7.48)),
    "TPU v3": Peaks(61.5e12, 450e9, 164e9, None, _gib(15.48)),
    "TPU v4": Peaks(275e12, 1200e9, 300e9, 6.25e9, _gib(30.75)),
    "TPU v5 lite": Peaks(197e12, 819e9, 200e9, 3.125e9, _gib(15.75)),
    "TPU v5": Peaks(459e12, 2765e9, 600e9, 6.25e9, _gib(95.74)),
    "TPU v6 lite": Peaks(918e12, 1638e9, 400e9, 12.5e9, _gib(31.25)),
    "TPU7x": Peaks(1153.5e12, 3690e9, 300e9, 6.25e9, _gib(94.75)),
}
_TPU |= {"TPU v5e": _TPU["TPU v5 lite"], "TPU v5p": _TPU["TPU v5"], "TPU v6e": _TPU["TPU v6 lite"]}
# Found by name within device_kind, the first that is there. V100 and T4 have no bfloat16: float16.
# NVIDIA's data sheets; links are NVLink's one direction, PCIe's where there is none.
_GPU = {
    "GB200": Peaks(2500e12, 8000e9, 900e9),
    "B200": Peaks(2250e12, 8000e9, 900e9),
    "H200": Peaks(989e12, 4800e9, 450e9),
    "H100 PCIe": Peaks(756e12, 2000e9, 64e9),
    "H100 NVL": Peaks(835e12, 3900e9, 300e9),
    "H100": Peaks(989e12, 3350e9, 450e9),
    "GH200": Peaks(989e12, 4000e9, 450e9),
    "A100-SXM4-80GB": Peaks(312e12, 2039e9, 300e9),
    "A100 80GB PCIe": Peaks(312e12, 1935e9, 32e9),
    "A100": Peaks(312e12, 1555e9, 300e9),
    "A10G": Peaks(70e12, 600e9, 32e9),
    "A10": Peaks(125e12, 600e9, 32e9),
    "A40": Peaks(149.7e12, 696e9, 32e9),
    "L40S": Peaks(362e12, 864e9, 32e9),
    "L40": Peaks(181e12, 864e9, 32e9),
    "L4": Peaks(121e12, 300e9, 32e9),
    "V100": Peaks(125e12, 900e9, 150e9),
    "T4": Peaks(65e12, 320e9, 16e9),
    "RTX A6000": Peaks(154.8e12, 768e9, 32e9),
    "RTX 4090": Peaks(165.2e12, 1008e9, 32e9),
    "RTX 3090": Peaks(71e12, 936e9, 32e9),
}


def peaks(device: jax.Device) -> Peaks | None:
    """The rates of a device by its kind; None for CPUs and kinds that are not known."""
    if device.platform == "tpu":
        return _TPU.get(device.device_kind)
    if device.platform != "gpu":
        return None
    return next((found for name, found in _GPU.items() if name in device.device_kind), None)


def capacity(device: jax.Device) -> int | None:
    """Bytes of memory that a program may take on a device; None where it is not known.

    A device of this host says so itself; the CPU's devices share this machine's memory.
    """
    if device.platform == "cpu":
        if not hasattr(os, "sysconf"):
            return None
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total // jax.local_device_count("cpu")
    known = peaks(device)
    if known is not None and known.capacity is not None:
        return known.capacity
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of a device; None where it is not known.

    TPUs and GPUs: bfloat16, dense, from the makers' data sheets (cloud.google.com/tpu/docs,
    NVIDIA's data sheets and, for GeForce, the Ampere and Ada white papers; float32 accumulation).
    CPUs: the rate of a float32 matmul measured here, shared by the devices of this process.

    Args:
        device: None: the first.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform == "cpu":
        return measured_matmul_rate(limit_s=0.2) / jax.local_device_count("cpu")
    known = peaks(device)
    return known and known.flops


@functools.cache
def measured_matmul_rate(size: int = 1536, runs: int = 8, limit_s: float = math.inf) -> float:
    """FLOP/s of a float32 matmul on this host's CPU, the fastest of some runs; once a process.

    Whatever else the machine does only makes a run slower, so the fastest is nearest to the peak.

    Args:
        runs: at most; at least three are made.
        limit_s: no run begins after so many seconds of them.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    x = jax.device_put(jnp.ones((size, size), jnp.float32), cpu)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    seconds = []
    while len(seconds) < min(runs, 3) or (len(seconds) < runs and sum(seconds) < limit_s):
        began = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def memory_peak() -> int:
    """Bytes in use at the worst moment so far.

    On an accelerator of the fullest of this host's devices; on a CPU resident, of the process.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return max(peaks)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
