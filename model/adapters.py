"""Low-rank adapters on decoder and tower, through `peft`, and their merging into plain weights.

A LoRA adapter adds `(alpha / rank) * B A x` to what a frozen linear layer makes of x; with DoRA the
sum of both weights is also rescaled, row by row. B starts at zero, so a fresh adapter changes
nothing. The model keeps its classes: only linear layers are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from vchat.model.four_bit import FourBitLinear, plain_linear

ADAPTER_KEYS = ("lora_A", "lora_B", "lora_magnitude_vector")
"""A parameter of an adapter has one of these in its name."""


def add_adapters(
    module: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    dora: bool,
) -> None:
    """Give linear layers of a module an adapter each.

    Args:
        targets: last parts of the layers' names, such as `q_proj`; none means all linear layers
            but the output head.

    Raises:
        ValueError: a target that is no linear layer of the module.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_names(module, targets),
        use_dora=dora,
    )
    inject_adapter_in_model(config, module)


def target_names(module: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """Return the full names of the linear layers that are meant.

    The output map inside `nn.MultiheadAttention` is none: that module reads its weight directly.
    """
    head = module.get_output_embeddings()
    linear = [
        name
        for name, one in module.named_modules()
        if type(one) in (nn.Linear, FourBitLinear) and one is not head
    ]
    known = {name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(targets) - known)
    if unknown:
        raise ValueError(
            f"no linear layer of {type(module).__name__} is called {unknown[0]!r}; "
            f"there are {', '.join(sorted(known))}"
        )
    wanted = set(targets) or known
    return [name for name in linear if name.rpartition(".")[2] in wanted]


def is_adapter(name: str) -> bool:
    """Tell by its name whether a parameter belongs to an adapter."""
    return any(key in name.split(".") for key in ADAPTER_KEYS)


def merge_adapters(module: nn.Module) -> None:
    """Add every adapter to its layer's weight and remove it; the module computes the same.

    Layers of 4-bit weights become plain ones.
    """
    from peft.tuners.lora import LoraLayer

    for name, one in list(module.named_modules()):
        if isinstance(one, LoraLayer):
            base: Any = one.get_base_layer()
            if isinstance(base, FourBitLinear):
                one.base_layer = plain_linear(base)
            merging: Any = one
            merging.merge()
            _replace(module, name, merging.get_base_layer())
    for name, one in list(module.named_modules()):
        if isinstance(one, FourBitLinear):
            _replace(module, name, plain_linear(one))
    if hasattr(module, "peft_config"):
        del module.peft_config


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)
