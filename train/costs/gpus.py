"""What accelerators can do at best: dense 16-bit arithmetic and memory, from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of accelerator."""

    tflops: float
    """Dense bfloat16 (of a V100: float16) arithmetic, 10^12 operations per second."""

    memory_gb: float
    """10^9 bytes."""


GPUS = {
    "V100": Gpu(tflops=125, memory_gb=32),
    "A10": Gpu(tflops=125, memory_gb=24),
    "A40": Gpu(tflops=149.7, memory_gb=48),
    "A100-40GB": Gpu(tflops=312, memory_gb=40),
    "A100-80GB": Gpu(tflops=312, memory_gb=80),
    "RTX-4090": Gpu(tflops=165.2, memory_gb=24),
    "L40S": Gpu(tflops=362, memory_gb=48),
    "H100-PCIe": Gpu(tflops=756, memory_gb=80),
    "H100-SXM": Gpu(tflops=989, memory_gb=80),
    "H200": Gpu(tflops=989, memory_gb=141),
    "B200": Gpu(tflops=2250, memory_gb=180),
    "MI250X": Gpu(tflops=191.5, memory_gb=64),  # of one of its two dies, which are two devices
    "MI300X": Gpu(tflops=1307, memory_gb=192),
}


def find_gpu(device_name: str) -> Gpu | None:
    """Find the entry for a name that a driver reports, such as `NVIDIA H100 80GB HBM3`.

    None if the table does not have it. Where it has two forms of one model, the slower is taken
    unless the name tells them apart.
    """
    words = device_name.upper().replace("-", " ")
    known = [name for name in GPUS if name.upper().split("-")[0] in words.split()]
    told_apart = [name for name in known if name.upper().split("-")[-1] in words] or known
    found = min(told_apart, key=lambda name: GPUS[name].tflops, default=None)
    return None if found is None else GPUS[found]
