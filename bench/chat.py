"""What does a round of a long chat cost, if what was computed before is kept?

A dialogue of 8 rounds, each with one image of 257 positions and a question. Before the last round's
first token, three ways:

    cache      the cache holds rounds 1 to 7: only round 8 is fed, as the chat does
    images     another dialogue about the same images: their keys and values are known, text is fed
    again      everything is encoded again, images included: what the published chat does

All give the same logits, which is asserted. Times are medians in CPU seconds of one thread: tower
and decoder of the sizes of `bench/attention.py`, random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from vchat.model.layout import DialogueCache
from vchat.model.visual_chat import VisualChat

SLOT = 1000
PER_IMAGE = 257
ROUNDS = 8


def main() -> None:
    """Print seconds of the three ways, and how many times faster than encoding again they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--question", type=int, default=40, help="text positions of a round")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = small_model()
    ids, pixels = dialogue(arguments.question)
    jobs = jobs_of(model, ids, pixels)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    logits: dict[str, Tensor] = {}
    for repetition in range(arguments.repetitions + 1):
        for name, (prepare, job) in jobs.items():
            cache = prepare()
            start = time.process_time()
            logits[name] = job(cache)
            if repetition > 0:  # the first warms up
                seconds[name].append(time.process_time() - start)
    for name, found in logits.items():
        torch.testing.assert_close(found, logits["again"], atol=1e-4, rtol=1e-4, msg=name)
    again = statistics.median(seconds["again"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"round {ROUNDS}, {name:7s} {median:.4f} s  {again / median:6.1f}x faster than again")


def jobs_of(
    model: VisualChat, ids: Sequence[Tensor], pixels: Tensor
) -> dict[str, tuple[Callable[[], DialogueCache | None], Callable[..., Tensor]]]:
    """Return for each way what is prepared beforehand, and what round 8 then costs."""
    before, whole = torch.cat(list(ids[:-1]), dim=1), torch.cat(list(ids), dim=1)
    known = [model.image_states(one[None], num_positions=PER_IMAGE) for one in pixels]

    def seven_rounds() -> DialogueCache:
        return model.extend(None, before, images=known[:-1])[1]

    def last_round(cache: DialogueCache) -> Tensor:
        image = model.image_states(pixels[-1:], num_positions=PER_IMAGE)
        return model.extend(cache, ids[-1], images=[image])[0]

    return {
        "cache": (seven_rounds, last_round),
        "images": (lambda: None, lambda _: model.extend(None, whole, images=known)[0]),
        "again": (lambda: None, lambda _: model.extend(None, whole, pixels)[0]),
    }


def dialogue(question: int) -> tuple[list[Tensor], Tensor]:
    """Return the ids of every round, int64[1, S], and the pixels of all images."""
    generator = torch.Generator().manual_seed(0)
    slots = torch.full((1, PER_IMAGE), SLOT)
    rounds = [
        torch.cat([slots, torch.randint(0, SLOT, (1, question), generator=generator)], dim=1)
        for _ in range(ROUNDS)
    ]
    pixels = torch.randint(0, 256, (ROUNDS, 3, 224, 224), generator=generator)
    return rounds, pixels.to(torch.uint8)


def small_model() -> VisualChat:
    """A tower of 257 positions, and a decoder of width 256 with 4 layers and 8 heads."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, **heads, image_size=224, patch_size=14))
    decoder = LlamaForCausalLM(
        LlamaConfig(**sizes, **heads, vocab_size=SLOT, max_position_embeddings=8192)
    )
    return VisualChat.from_parts(
        tower=tower, decoder=decoder, image_token_id=SLOT, num_ids=SLOT + 1
    ).eval()


if __name__ == "__main__":
    main()
