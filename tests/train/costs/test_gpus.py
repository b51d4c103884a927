"""The table of accelerators."""

from vchat.train.costs.gpus import GPUS, find_gpu


def test_a_gpu_is_found_by_the_name_of_its_driver():
    assert find_gpu("NVIDIA A100-SXM4-80GB") is GPUS["A100-80GB"]
    assert find_gpu("NVIDIA H100 PCIe") is GPUS["H100-PCIe"]
    assert find_gpu("Tesla V100-SXM2-32GB") is GPUS["V100"]
    assert find_gpu("NVIDIA GeForce RTX 4090") is GPUS["RTX-4090"]
    assert find_gpu("an unknown one") is None
