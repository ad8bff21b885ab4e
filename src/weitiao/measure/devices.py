"""Devices that a plan can be made for without having them.

Peaks are dense products, from the makers' data sheets (the product's name finds them); nothing here was measured by us. A
step reaches a fraction of a peak: 0.35 is a usual model FLOPs utilisation of tuned training on large GPUs (PaLM, Chowdhery
et al. 2022, arXiv 2204.02311, table 3: 0.21 to 0.46), less where batches are small. A plan for such a device is an
estimate without claim.
"""

import difflib
from dataclasses import dataclass

from weitiao.errors import ConfigError

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Device:
    """Memory in bytes, peaks in operations a second, bandwidth in bytes a second; ``bf16`` 0: the device has none."""

    name: str
    memory_bytes: int
    bf16_flops_per_s: float
    fp32_flops_per_s: float  # TF32 where the device has it is not used: fp32 runs as fp32
    memory_bytes_per_s: float
    achieved: float = 0.35
    kind: str = "cuda"


def _gpu(name: str, gib: float, bf16: float, fp32: float, bandwidth: float, achieved: float = 0.35) -> Device:
    return Device(name, int(gib * 2**30), bf16 * TERA, fp32 * TERA, bandwidth * GIGA, achieved)


DEVICES = {
    device.name: device
    for device in (
        # NVIDIA data centre: "Tesla P100", "V100", "T4", "A10", ... data sheets
        _gpu("P100-16GB", 16, 0, 9.3, 732, 0.4),
        _gpu("V100-16GB", 16, 0, 15.7, 900, 0.4),
        _gpu("V100-32GB", 32, 0, 15.7, 900, 0.4),
        _gpu("T4-16GB", 15, 0, 8.1, 320, 0.4),
        _gpu("A10-24GB", 22.5, 125, 31.2, 600),
        _gpu("A30-24GB", 24, 165, 10.3, 933),
        _gpu("A40-48GB", 45, 149.7, 37.4, 696),
        _gpu("A100-40GB", 40, 312, 19.5, 1555),
        _gpu("A100-80GB", 80, 312, 19.5, 2039),
        _gpu("L4-24GB", 22.5, 121, 30.3, 300),
        _gpu("L40S-48GB", 45, 362, 91.6, 864),
        _gpu("H100-80GB", 80, 989, 67, 3350, 0.3),
        _gpu("H200-141GB", 141, 989, 67, 4800, 0.3),
        _gpu("H20-96GB", 96, 148, 44, 4000),
        _gpu("B200-180GB", 180, 2250, 75, 8000, 0.3),
        # NVIDIA workstation and GeForce: architecture white papers (Turing, Ampere, Ada, Blackwell)
        _gpu("RTX-2080-Ti-11GB", 11, 0, 13.4, 616, 0.4),
        _gpu("RTX-3060-12GB", 12, 51, 12.7, 360),
        _gpu("RTX-3090-24GB", 24, 71, 35.6, 936),
        _gpu("RTX-4060-Ti-16GB", 16, 88, 22.1, 288),
        _gpu("RTX-4090-24GB", 24, 165, 82.6, 1008),
        _gpu("RTX-5090-32GB", 32, 209, 104.8, 1792),
        _gpu("RTX-A6000-48GB", 48, 155, 38.7, 768),
        # AMD Instinct: "MI250X" (one of its two dies) and "MI300X" data sheets
        _gpu("MI250X-64GB", 64, 191, 23.9, 1638, 0.3),
        _gpu("MI300X-192GB", 192, 1307, 163.4, 5300, 0.25),
        # CPUs: cores x clock x operations a cycle of one socket; memory as commonly fitted
        Device("Xeon-8480-AMX-256GB", 256 * 2**30, 114 * TERA, 7.2 * TERA, 307 * GIGA, 0.15, "cpu"),
        Device("EPYC-9654-384GB", 384 * 2**30, 22 * TERA, 11 * TERA, 460 * GIGA, 0.25, "cpu"),
    )
}


def find_device(name: str) -> Device:
    """The device of that name; case does not matter.

    Raises:
        ConfigError: there is none; the message lists all names.
    """
    by_lower = {known.lower(): device for known, device in DEVICES.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    raise ConfigError(
        f"No device named '{name}'.\nExpected one of: {', '.join(DEVICES)}.\n"
        + (f"Did you mean --device {by_lower[close[0]].name}? " if close else "")
        + "Without --device the plan is for this machine."
    )
