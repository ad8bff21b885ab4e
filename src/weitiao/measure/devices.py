"""Devices that a plan can be made for without having them.

Peaks are dense products with sums in fp32, from the makers' data sheets (the product's name finds them); nothing here was measured by us. What
share of them a step reaches is fitted to runs that others measured (measure/gpu.py).
"""

import difflib
import re
from dataclasses import dataclass

from weitiao.errors import ConfigError

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Device:
    """Memory in bytes, peaks in operations a second, bandwidth in bytes a second; a peak of 0: the device has no such products.

    Args:
        fp16_flops_per_s: of tensor cores. 0 for a P100, whose cores add up in fp16.
        achieved: share of the peaks, where measure/gpu.py has none: a CPU, and GPUs of which no published run was at hand.
        dual_issue: an NVIDIA GPU of the GeForce line since Ampere, whose fp32 peak counts two units that share work.
    """

    name: str
    memory_bytes: int
    bf16_flops_per_s: float
    fp32_flops_per_s: float
    memory_bytes_per_s: float
    achieved: float | None = None
    dual_issue: bool = False
    kind: str = "cuda"
    fp16_flops_per_s: float = 0.0
    tf32_flops_per_s: float = 0.0

    def tensor_flops_per_s(self, dtype: str, tf32: bool = False) -> float:
        """The peak of its matrix units in ``dtype``; 0 where products run in fp32.

        Args:
            tf32: fp32 products round their inputs (``train.tf32``).
        """
        peaks = {"bfloat16": self.bf16_flops_per_s, "float16": self.fp16_flops_per_s}
        return peaks.get(dtype, self.tf32_flops_per_s if tf32 else 0.0)


def _gpu(
    name: str,
    gib: float,
    bf16: float,
    fp32: float,
    bandwidth: float,
    achieved: float | None = None,
    dual: bool = False,
    fp16: float | None = None,
) -> Device:
    """Every GPU here that has bf16 is as fast in float16, and NVIDIA's are half as fast in TF32."""
    return Device(
        name=name,
        memory_bytes=int(gib * 2**30),
        bf16_flops_per_s=bf16 * TERA,
        fp32_flops_per_s=fp32 * TERA,
        memory_bytes_per_s=bandwidth * GIGA,
        achieved=achieved,
        dual_issue=dual,
        fp16_flops_per_s=(bf16 if fp16 is None else fp16) * TERA,
        tf32_flops_per_s=0.0 if name.startswith("MI") else bf16 * TERA / 2,
    )


DEVICES = {
    device.name: device
    for device in (
        # NVIDIA data centre: "Tesla P100", "V100", "T4", "A10", ... data sheets
        _gpu("P100-16GB", 16, bf16=0, fp32=9.3, bandwidth=732),
        _gpu("V100-16GB", 16, bf16=0, fp16=125, fp32=15.7, bandwidth=900),
        _gpu("V100-32GB", 32, bf16=0, fp16=125, fp32=15.7, bandwidth=900),
        _gpu("T4-16GB", 15, bf16=0, fp16=65, fp32=8.1, bandwidth=320),
        _gpu("A10-24GB", 22.5, bf16=125, fp32=31.2, bandwidth=600, dual=True),
        _gpu("A10G-24GB", 22.5, bf16=70, fp32=31.5, bandwidth=600, dual=True),  # of a cloud: half the A10's products
        _gpu("A30-24GB", 24, bf16=165, fp32=10.3, bandwidth=933),
        _gpu("A40-48GB", 45, bf16=149.7, fp32=37.4, bandwidth=696, dual=True),
        _gpu("A100-40GB", 40, bf16=312, fp32=19.5, bandwidth=1555),
        _gpu("A100-80GB", 80, bf16=312, fp32=19.5, bandwidth=2039),
        _gpu("L4-24GB", 22.5, bf16=121, fp32=30.3, bandwidth=300, dual=True),
        _gpu("L40S-48GB", 45, bf16=362, fp32=91.6, bandwidth=864, dual=True),
        _gpu("H100-80GB", 80, bf16=989, fp32=67, bandwidth=3350),
        _gpu("H200-141GB", 141, bf16=989, fp32=67, bandwidth=4800),
        _gpu("H20-96GB", 96, bf16=148, fp32=44, bandwidth=4000),
        _gpu("B200-180GB", 180, bf16=2250, fp32=75, bandwidth=8000),
        # NVIDIA workstation and GeForce: architecture white papers (Turing, Ampere, Ada, Blackwell)
        _gpu("RTX-2080-Ti-11GB", 11, bf16=0, fp16=53.8, fp32=13.4, bandwidth=616),
        _gpu("RTX-3060-12GB", 12, bf16=25.5, fp32=12.7, bandwidth=360, dual=True),
        _gpu("RTX-3090-24GB", 24, bf16=71, fp32=35.6, bandwidth=936, dual=True),
        _gpu("RTX-4060-Ti-16GB", 16, bf16=44, fp32=22.1, bandwidth=288, dual=True),
        _gpu("RTX-4090-24GB", 24, bf16=165, fp32=82.6, bandwidth=1008, dual=True),
        _gpu("RTX-5090-32GB", 32, bf16=209, fp32=104.8, bandwidth=1792, dual=True),
        _gpu("RTX-A6000-48GB", 48, bf16=155, fp32=38.7, bandwidth=768, dual=True),
        # AMD Instinct: "MI250X" (one of its two dies) and "MI300X" data sheets
        _gpu("MI250X-64GB", 64, bf16=191, fp32=23.9, bandwidth=1638, achieved=0.3),
        _gpu("MI300X-192GB", 192, bf16=1307, fp32=163.4, bandwidth=5300, achieved=0.25),
        # CPUs: cores x clock x operations a cycle of one socket; memory as commonly fitted
        Device(
            name="Xeon-8480-AMX-256GB",
            memory_bytes=256 * 2**30,
            bf16_flops_per_s=114 * TERA,
            fp32_flops_per_s=7.2 * TERA,
            memory_bytes_per_s=307 * GIGA,
            achieved=0.15,
            kind="cpu",
        ),
        Device(
            name="EPYC-9654-384GB",
            memory_bytes=384 * 2**30,
            bf16_flops_per_s=22 * TERA,
            fp32_flops_per_s=11 * TERA,
            memory_bytes_per_s=460 * GIGA,
            achieved=0.25,
            kind="cpu",
        ),
    )
}


def find_device(name: str) -> Device:
    """The device of that name; case, hyphens, spaces and underscores do not matter.

    Raises:
        ConfigError: there is none; the message lists all names.
    """
    by_letters = {_letters(known): device for known, device in DEVICES.items()}
    if (letters := _letters(name)) in by_letters:
        return by_letters[letters]
    close = difflib.get_close_matches(letters, by_letters, n=1, cutoff=0.4)
    raise ConfigError(
        f"No device named '{name}'.\nExpected one of: {', '.join(DEVICES)}.\n"
        + (f"Did you mean --device {by_letters[close[0]].name}? " if close else "")
        + "Without --device the plan is for this machine."
    )


def _letters(name: str) -> str:
    return re.sub(r"[\s\-_]+", "", name.lower())


def device_of(label: str, memory_bytes: int) -> Device | None:
    """The device of the table that a driver calls ``label``, "NVIDIA A100-SXM4-80GB"; None where there is none.

    Of several sizes of memory the nearest.
    """
    words = set(re.split(r"[\s\-()]+", label.lower()))
    if "laptop" in words:  # another chip under the same name
        return None
    found = []
    for device in DEVICES.values():
        parts = device.name.lower().split("-")[:-1]
        if device.kind != "cpu" and words.issuperset(parts):
            found.append((-len(parts), abs(device.memory_bytes - memory_bytes), device.name))
    return DEVICES[min(found)[2]] if found else None
