"""The published chat, ported: what an imported model must answer like.

Written from the public code without ours: masks are added to scores, images are put in from the
last slot on, nothing is cached. A state is the dictionary that the published code saves; LoRA is
not looked at, as in its chat. S positions, D decoder width, V ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModel, LlamaConfig, PreTrainedTokenizerFast

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content"
    " that the user provides, and assist the user with a variety of tasks using natural"
    " language.\n\n"
)
LOWEST = torch.finfo(torch.float32).min


def add_special_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens(["### Image:", "<image>"], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    return tokenizer


@dataclass
class PublishedChat:
    """Its chat loop, with the answer's ids instead of printing."""

    state: dict[str, Tensor]
    config: LlamaConfig
    vis_encoder: CLIPVisionModel
    tokenizer: PreTrainedTokenizerFast
    images: list[Tensor] = field(default_factory=list)
    system_instruct: list[int] = field(default_factory=list)
    num_rounds: int = 0

    def ask(self, text: str, images: list[Tensor], *, length: int) -> tuple[list[int], Tensor]:
        """Return the ids of the answer, without its end, and the logits that chose the first."""
        self.num_rounds += 1
        first = len(self.images) + 1
        self.images += images
        prompt = SYSTEM if self.num_rounds == 1 else ""
        prompt += "".join("### Image:\n<image>\n" for _ in images) + ("\n" if images else "")
        prompt += f"### Question:\n{text}\n\n### Answer:\n"
        for number in range(first, first + len(images)):
            prompt = re.sub("### Image:", f"### Image {number}:", prompt, count=1)
        ids = self.system_instruct + self.tokenizer(prompt).input_ids
        answer, logits = self.generate(ids, length)
        while answer and answer[-1] == self.tokenizer.eos_token_id:
            answer.pop()
        self.system_instruct = [*ids, *answer, self.tokenizer.eos_token_id]
        return answer, logits

    @torch.no_grad()
    def generate(self, ids: list[int], length: int) -> tuple[list[int], Tensor]:
        rows, mask = self.concat(torch.tensor(ids))
        answer: list[int] = []
        first = None
        while len(answer) < length:
            logits = self.decode(rows, mask)[-1]
            first = logits if first is None else first
            answer.append(int(logits.argmax()))
            if answer[-1] == self.tokenizer.eos_token_id:
                break
            new = self.state["lang_decoder.model.embed_tokens.weight"][answer[-1:]]
            rows, mask = torch.cat([rows, new]), torch.cat([mask, torch.ones(1)])
        assert first is not None
        return answer, first

    def concat(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Put the images in; float[S, D], and 1 for text, 2 for images."""
        features = self.vis_encoder(torch.stack(self.images)).last_hidden_state
        p = "projection."
        projected = functional.linear(
            features, self.state[p + "0.weight"], self.state[p + "0.bias"]
        )
        projected = functional.layer_norm(
            projected,
            projected.shape[-1:],
            self.state[p + "1.weight"],
            self.state[p + "1.bias"],
            1e-12,
        )
        rows, mask = self.state["lang_embed.weight"][ids], torch.ones(len(ids))
        slots = (ids == self.tokenizer.convert_tokens_to_ids("<image>")).nonzero()[:, 0]
        for image, slot in zip(projected, slots.flip(0), strict=True):
            rows = torch.cat([rows[:slot], image, rows[slot + 1 :]])
            mask = torch.cat([mask[:slot], torch.full((len(image),), 2.0), mask[slot + 1 :]])
        return rows, mask

    def decode(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Run the decoder over a whole row: float[S, D] to float[S, V]."""
        config, width = self.config, self.config.hidden_size // self.config.num_attention_heads
        frequencies = 1.0 / 10000.0 ** (torch.arange(0, width, 2).float() / width)
        angles = torch.outer(torch.arange(len(rows)).float(), frequencies).repeat(1, 2)
        masks = self.two_masks(mask)
        for number in range(config.num_hidden_layers):
            w = {
                key.removeprefix(f"lang_decoder.model.layers.{number}."): value
                for key, value in self.state.items()
            }
            x = self.norm(rows, w["input_layernorm.weight"])
            rows = rows + self.attend(x, w, angles, masks) @ w["self_attn.o_proj.weight"].T
            x = self.norm(rows, w["post_attention_layernorm.weight"])
            gate = functional.silu(x @ w["mlp.gate_proj.weight"].T)
            rows = rows + (gate * (x @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
        rows = self.norm(rows, self.state["lang_decoder.model.norm.weight"])
        return rows @ self.state["lang_decoder.lm_head.weight"].T

    def attend(
        self, x: Tensor, w: dict[str, Tensor], angles: Tensor, masks: tuple[Tensor, Tensor]
    ) -> Tensor:
        heads, groups = self.config.num_attention_heads, self.config.num_key_value_heads
        q, k, v = (
            (x @ w[f"self_attn.{name}_proj.weight"].T).view(len(x), n, -1).transpose(0, 1)
            for name, n in (("q", heads), ("k", groups), ("v", groups))
        )
        q, k = (t * angles.cos() + self.rotate_half(t) * angles.sin() for t in (q, k))
        k, v = (t.repeat_interleave(heads // groups, dim=0) for t in (k, v))
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        text, image = masks
        weights = (scores + text).softmax(-1) + (scores + image).softmax(-1)
        mixed: Tensor = (weights @ v).transpose(0, 1).flatten(1)
        return mixed

    def two_masks(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to the scores before each softmax, float[S, S]: image and text."""
        causal = torch.full((len(mask), len(mask)), LOWEST).triu(1)
        added = []
        for kind in (2, 1):
            one = torch.where(mask == kind, 0.0, LOWEST).expand(len(mask), -1).clone()
            if kind == 2:
                for row in (mask == 2).nonzero()[:, 0]:
                    one[row], one[row, row] = LOWEST, 0.0
            added.append(one + causal)
        return added[0], added[1]

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        scale: Tensor = (x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt()
        return x * scale * weight

    @staticmethod
    def rotate_half(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)
