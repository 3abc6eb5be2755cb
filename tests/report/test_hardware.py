"""Peaks by name of the device, the measured rate of a CPU, memory."""

import os
from types import SimpleNamespace

import jax
import pytest

from big_vit_lite.report import hardware


@pytest.mark.parametrize(
    ("platform", "kind", "flops"),
    [
        ("tpu", "TPU v4", 275e12),
        ("tpu", "TPU v5 lite", 197e12),
        ("tpu", "TPU v5", 459e12),
        ("tpu", "TPU v6 lite", 918e12),
        ("tpu", "TPU7x", 1153.5e12),
        ("tpu", "TPU v99", None),
        ("gpu", "NVIDIA A100-SXM4-80GB", 312e12),
        ("gpu", "NVIDIA A10G", 70e12),
        ("gpu", "NVIDIA A10", 125e12),
        ("gpu", "NVIDIA L4", 121e12),
        ("gpu", "NVIDIA L40", 181e12),
        ("gpu", "NVIDIA L40S", 362e12),
        ("gpu", "NVIDIA H100 80GB HBM3", 989e12),
        ("gpu", "NVIDIA H100 PCIe", 756e12),
        ("gpu", "NVIDIA H200", 989e12),
        ("gpu", "NVIDIA GB200", 2500e12),
        ("gpu", "Tesla T4", 65e12),
        ("gpu", "something else", None),
    ],
)
def test_peak_by_name(platform, kind, flops):
    assert hardware.peak_flops(SimpleNamespace(platform=platform, device_kind=kind)) == flops


def test_peaks_beside_flops():
    v5e = hardware.peaks(SimpleNamespace(platform="tpu", device_kind="TPU v5 lite"))
    assert (v5e.memory, v5e.links, v5e.network) == (819e9, 200e9, 3.125e9)
    # v3's chip has 900 GB/s and two devices.
    v3 = hardware.peaks(SimpleNamespace(platform="tpu", device_kind="TPU v3"))
    assert v3.memory == 450e9 and v3.network is None
    h200 = hardware.peaks(SimpleNamespace(platform="gpu", device_kind="NVIDIA H200"))
    assert h200.memory == 4800e9 and h200.links == 450e9
    assert hardware.peaks(jax.devices()[0]) is None


def test_capacity_is_the_compilers_or_the_devices_own():
    chip = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    assert hardware.capacity(chip) == int(15.75 * 2**30)
    stats = {"bytes_limit": 100}
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", memory_stats=lambda: stats)
    assert hardware.capacity(gpu) == 100
    # The CPU's devices share the memory of the machine.
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert hardware.capacity(jax.devices()[0]) == total // jax.local_device_count()


def test_cpu_rate_is_measured_once_and_shared_by_its_devices():
    rate = hardware.measured_matmul_rate(size=256, runs=3)
    assert 1e8 < rate < 1e14
    assert hardware.measured_matmul_rate(size=256, runs=3) == rate
    whole = hardware.measured_matmul_rate(limit_s=0.2)
    assert hardware.peak_flops() == whole / jax.local_device_count()


def test_cpu_rate_is_that_of_the_fastest_run(monkeypatch):
    times = iter([0.0, 4.0, 10.0, 10.5, 20.0, 23.0])  # runs of 4, 0.5 and 3 seconds
    clock = SimpleNamespace(perf_counter=lambda: next(times))
    monkeypatch.setattr(hardware, "time", clock)
    rate = hardware.measured_matmul_rate.__wrapped__(size=8, runs=3)
    assert rate == 2 * 8**3 / 0.5


def test_cpu_rate_takes_no_longer_than_a_run_must_wait(monkeypatch):
    times = iter([0.0, 4.0, 10.0, 14.5, 20.0, 23.0, 30.0, 31.0, 40.0, 42.0])
    monkeypatch.setattr(hardware, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    measure = hardware.measured_matmul_rate.__wrapped__
    assert measure(size=8, runs=5, limit_s=12.0) == 2 * 8**3 / 1.0  # 4 + 4.5 + 3 s, and one more
    assert list(times) == [40.0, 42.0]


def test_memory_peak_grows_with_what_is_held():
    import numpy as np

    before = hardware.memory_peak()
    held = np.ones(max(before, 2**28) // 8 + 2**22)
    assert hardware.memory_peak() > before + held.nbytes // 8
    assert before > 2**26


def test_accelerators_report_the_fullest_device(monkeypatch):
    stats = [{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 9}, None]
    devices = [SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert hardware.memory_peak() == 9
