"""Which decoders are taken, and why others are refused. Reads configurations only.

Dialogues are packed into rows, so nothing may pass from one position to another but through
attention, and that must be of a kind that ours computes exactly. A convolution or a recurrent state
runs over the ends of dialogues and over images, without an error. So a family is taken only if
`tests/model/test_decoder_families.py` shows that it computes the same packed, alone and in the
library; and of its configurations, those whose layers and settings are of the proven kind.
"""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

PROVEN = (
    "apertus",
    "arcee",
    "aria_text",
    "biogpt",
    "cohere",
    "cohere2",
    "cwm",
    "dots1",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "exaone_moe",
    "flex_olmo",
    "gemma",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "granite",
    "granitemoe",
    "granitemoeshared",
    "helium",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "hy_v3",
    "hyperclovax",
    "internlm3",
    "jais2",
    "llama",
    "minimax_m2",
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "solar_open",
    "starcoder2",
)
"""Model types of transformers. The table in `docs/train.md` is the same."""

EXACT_LAYERS = ("full_attention", "sliding_attention")
"""What a configuration may call its layers. Windows are at least as long as a dialogue, or the
forward pass is refused."""

SETTINGS = {
    "kv_lora_rank": ("latent attention", (None,)),
    "attn_logit_softcapping": ("soft-capped scores", (None,)),
    "final_logit_softcapping": ("soft-capped logits", (None,)),
    "logits_scaling": ("scaled logits", (None, 1)),
    "logit_scale": ("scaled logits", (None, 1)),
    "attention_chunk_size": ("attention in chunks", (None,)),
    "alibi": ("position biases", (None, False)),
    "is_causal": ("attention to later positions", (None, True)),
    "use_bidirectional_attention": ("attention to later positions", (None, False)),
    "is_encoder_decoder": ("an encoder", (None, False)),
    "add_cross_attention": ("cross attention", (None, False)),
    "attention_dropout": ("dropout of attention", (None, 0)),
    "reorder_and_upcast_attn": ("attention of its own", (None, False)),
    "attn_pdrop": ("dropout of attention", (None, 0)),
    "attention_probs_dropout_prob": ("dropout of attention", (None, 0)),
}
"""Fields of configurations: what they ask for, and the values that do not ask for it."""

FAMILIES = {
    "diffllama": "differential attention",
    "doge": "masks that depend on the keys",
    "flint": "attention sinks",
    "gpt_oss": "attention sinks",
    "granite_swa": "attention sinks",
    "granitemoe_swa": "attention sinks",
    "mimo_v2_flash": "attention sinks",
    "minimax_m3_vl_text": "attention to chosen blocks",
    "nemotron": "its attention where nothing can be handed to it",
    "stablelm": "its attention where nothing can be handed to it",
}
"""What families compute that no field of their configuration says."""


def check_decoder(config: PreTrainedConfig) -> None:
    """Raise ValueError, with type and reason, unless our attention computes a decoder exactly."""
    reason = find_refusal(config)
    if reason is not None:
        raise ValueError(f"a decoder of type {config.model_type!r} cannot be used: {reason}")


def find_refusal(config: PreTrainedConfig) -> str | None:
    """Return why a decoder is refused, None if it is not."""
    return (
        _refuse_layers(config)
        or _refuse_settings(config)
        or _refuse_class(config)
        or _refuse_family(str(config.model_type))
    )


def find_longest_dialogue(config: PreTrainedConfig) -> int | None:
    """Return the most positions of a dialogue for which rotary frequencies stay as they are.

    Some decoders choose frequencies by the longest dialogue of a batch, which would change what the
    others are given. None if this one does not.
    """
    stated = getattr(config, "rope_parameters", None) or {}
    tables = [stated, *(value for value in stated.values() if isinstance(value, dict))]
    limits = [
        int(table.get("original_max_position_embeddings") or config.max_position_embeddings)
        for table in tables
        if table.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=None)


def _refuse_layers(config: PreTrainedConfig) -> str | None:
    for number, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if kind not in EXACT_LAYERS:
            return (
                f"layer {number} is {kind!r}, where only {' and '.join(EXACT_LAYERS)} keep the"
                " dialogues of a packed row apart and can be extended round by round"
            )
    return None


def _refuse_settings(config: PreTrainedConfig) -> str | None:
    for name, (what, neutral) in SETTINGS.items():
        value: Any = getattr(config, name, None)
        if value not in neutral:
            return f"{name} = {value!r} asks for {what}, which our attention does not compute"
    return None


def _refuse_class(config: PreTrainedConfig) -> str | None:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers has no causal language model of this type"
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not kind._can_set_attn_implementation():
        return (
            f"{kind.__name__} does not take its attention from transformers' interface (for one,"
            " because it adds position biases to its scores)"
        )
    return None


def _refuse_family(model_type: str) -> str | None:
    if model_type in FAMILIES:
        return f"it computes {FAMILIES[model_type]}, which our attention does not"
    if model_type not in PROVEN:
        return (
            "it is not among those that are proven to compute the same packed, alone and in the"
            " library; docs/train.md lists them"
        )
    return None
