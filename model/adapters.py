"""Low-rank adapters on decoder and tower, through `peft`, and their merging into plain weights.

A LoRA adapter adds `(alpha / rank) * B A x` to what a frozen linear layer makes of x; with DoRA the
sum of both weights is also rescaled, row by row. B starts at zero, so a fresh adapter changes
nothing. The model keeps its classes: only linear layers are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from vchat.model.four_bit import FourBitLinear, plain_linear, use_four_bits

if TYPE_CHECKING:
    from vchat.model.visual_chat import VisualChat

ADAPTER_KEYS = ("lora_A", "lora_B", "lora_magnitude_vector")
"""The name of an adapter's parameter contains one of these."""


def adapt(
    model: VisualChat,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    dora: bool = False,
    four_bit: bool = False,
    decoder_targets: Sequence[str] | None = (),
    tower_targets: Sequence[str] | None = None,
) -> None:
    """Add fresh adapters to a model, which change no output yet.

    Args:
        rank, alpha: an adapter's share of the output is scaled by alpha / rank.
        dropout: of an adapter's input, in training.
        dora: rescale the adapted weights row by row as well.
        four_bit: quantise the decoder's linear layers first (QLoRA). This changes outputs.
        decoder_targets: last parts of layer names; an empty list means all linear layers but
            the head, None no adapters there.
        tower_targets: of the tower, in the same way.

    Raises:
        ValueError: the model has adapters already, or a target is no linear layer.
    """
    if model.config.adapters is not None:
        raise ValueError("the model has adapters already: merge them first")
    if four_bit:
        use_four_bits(model.decoder, target_names(model.decoder, ()), same_weights=True)
        model.config.four_bit_decoder = True
    adapters = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "dora": dora,
        "decoder_targets": None if decoder_targets is None else list(decoder_targets),
        "tower_targets": None if tower_targets is None else list(tower_targets),
    }
    add_configured_adapters(model, adapters)
    model.config.adapters = adapters


def add_configured_adapters(model: VisualChat, adapters: dict[str, Any]) -> None:
    """Give decoder and tower the adapters that a configuration names."""
    settings = {k: v for k, v in adapters.items() if not k.endswith("_targets")}
    for part, targets in (
        (model.decoder, adapters["decoder_targets"]),
        (model.tower.model, adapters["tower_targets"]),
    ):
        if targets is not None:
            add_adapters(part, targets=targets, **settings)


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
        targets: last parts of the layers' names, such as `q_proj`; an empty list means all
            linear layers but the output head.

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


def merge_model(model: VisualChat) -> None:
    """Make adapters and 4-bit weights of a model plain weights."""
    if model.config.adapters is None and not model.config.four_bit_decoder:
        return
    for part in (model.decoder, model.tower.model):
        merge_adapters(part)
    model.config.adapters, model.config.four_bit_decoder = None, False


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
