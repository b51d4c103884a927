"""Peak arithmetic and memory of accelerators, from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of accelerator."""

    tflops: float
    """Dense bfloat16 arithmetic (float16 on a V100), in 10^12 operations per second."""

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
    "MI250X": Gpu(tflops=191.5, memory_gb=64),  # one of its two dies: each is a device
    "MI300X": Gpu(tflops=1307, memory_gb=192),
}


def find_gpu(device_name: str) -> Gpu | None:
    """Find the entry for a name that a driver reports, such as `NVIDIA H100 80GB HBM3`.

    None if the table has no such model. If it has several forms of one model, the name decides
    between them, or else the slowest is returned.
    """
    words = device_name.upper().replace("-", " ")
    known = [name for name in GPUS if name.upper().split("-")[0] in words.split()]
    same_form = [name for name in known if name.upper().split("-")[-1] in words] or known
    found = min(same_form, key=lambda name: GPUS[name].tflops, default=None)
    return None if found is None else GPUS[found]
