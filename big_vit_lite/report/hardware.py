"""What the machine could do and has used: peak FLOP/s of a device, peak memory."""

import functools
import resource
import sys
import time

import jax
import jax.numpy as jnp

# bfloat16 with dense matrices, FLOP/s of one JAX device. A TPU v2, v3 or 7x chip is two devices.
_TPU = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
}
# Found by name within device_kind, the first that is there. V100 and T4 have no bfloat16: float16.
_GPU = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


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
        return measured_matmul_rate() / jax.local_device_count("cpu")
    if device.platform == "tpu":
        return _TPU.get(device.device_kind)
    return next((flops for name, flops in _GPU.items() if name in device.device_kind), None)


@functools.cache
def measured_matmul_rate(size: int = 1536, runs: int = 8) -> float:
    """FLOP/s of a float32 matmul on this host's CPU, the fastest of some runs; once a process.

    Whatever else the machine does only makes a run slower, so the fastest is nearest to the peak.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    x = jax.device_put(jnp.ones((size, size), jnp.float32), cpu)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    seconds = []
    for _ in range(runs):
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
