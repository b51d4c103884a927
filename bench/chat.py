"""What does round 8 of a chat about 8 images cost, if what was computed before is kept?

Every image has 257 positions, every round a question of 40. Until the last round's first token:

    again      everything is encoded again, images included: what the published chat does
    question   the cache holds rounds 1 to 7 with all 8 images, and round 8 only asks
    known      the cache holds 7 rounds and images; round 8 shows one that was seen in another chat
    new        as before, but the image was never seen: it goes through tower and decoder
    recalled   no cache, all 8 images were seen in other chats: only text is fed, that of 8 rounds

All give the logits of `again`, which is asserted. Times are medians in CPU seconds of one thread,
taken in turns: tower and decoder of the sizes of `bench/attention.py`, random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from vchat.model.cached_layout import DialogueCache
from vchat.model.image_states import ImageStates
from vchat.model.visual_chat import VisualChat

SLOT = 1000
PER_IMAGE = 257
ROUNDS = 8


def main() -> None:
    """Print seconds of each way, and how many times faster than encoding again it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--question", type=int, default=40, help="text positions of a round")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = small_model()
    jobs = jobs_of(model, question=arguments.question)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    logits: dict[str, Tensor] = {}
    for repetition in range(arguments.repetitions + 1):
        for name, job in jobs.items():
            cache = job.prepare()
            start = time.process_time()
            logits[name] = job.run(cache)
            if repetition > 0:  # the first warms up
                seconds[name].append(time.process_time() - start)
    for name, job in jobs.items():
        torch.testing.assert_close(logits[name], job.expected, atol=1e-4, rtol=1e-4, msg=name)
    again = statistics.median(seconds["again"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"round {ROUNDS} {name:9s} {median:.4f} s  {again / median:5.1f}x faster than again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One way to come to the logits behind the last question."""

    prepare: Callable[[], DialogueCache | None]
    """Makes what was computed before; not timed."""

    run: Callable[[DialogueCache | None], Tensor]
    """What is timed: returns the logits."""

    expected: Tensor
    """The logits of encoding the same dialogue again."""


def jobs_of(model: VisualChat, *, question: int) -> dict[str, Job]:
    """Return the ways by name. In one of two dialogues round 8 shows an image."""
    pixels = pictures()
    known = [model.compute_image_states(one[None], num_positions=PER_IMAGE) for one in pixels]
    asks, shows = (dialogue(question, images) for images in ([2, *[1] * 6, 0], [1] * ROUNDS))
    ways: dict[str, tuple[list[Tensor], int, Callable[..., Tensor]]] = {
        "again": (shows, 0, lambda _: model.extend(None, torch.cat(shows, dim=1), pixels)[0]),
        "question": (asks, 8, lambda cache: model.extend(cache, asks[-1])[0]),
        "known": (shows, 7, lambda cache: model.extend(cache, shows[-1], images=known[-1:])[0]),
        "new": (shows, 7, lambda cache: with_new_image(model, cache, shows[-1], pixels[-1:])),
        "recalled": (
            shows,
            0,
            lambda _: model.extend(None, torch.cat(shows, dim=1), images=known)[0],
        ),
    }
    return {
        name: Job(
            prepare=partial(seven_rounds, model, rounds, known[:shown]),
            run=run,
            expected=model.extend(None, torch.cat(rounds, dim=1), pixels)[0],
        )
        for name, (rounds, shown, run) in ways.items()
    }


def seven_rounds(
    model: VisualChat, rounds: Sequence[Tensor], images: Sequence[ImageStates]
) -> DialogueCache | None:
    """Return the cache of all rounds but the last, or None if no image is known."""
    if not images:
        return None
    return model.extend(None, torch.cat(list(rounds[:-1]), dim=1), images=images)[1]


def with_new_image(model: VisualChat, cache: DialogueCache, ids: Tensor, pixels: Tensor) -> Tensor:
    """Extend the cache by a round with one image, as the chat does when it sees it first."""
    states = model.compute_image_states(pixels, num_positions=PER_IMAGE)
    return model.extend(cache, ids, images=[states])[0]


def dialogue(question: int, images: Sequence[int]) -> list[Tensor]:
    """Return the ids of every round, int64[1, S]: so many images, then a question."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.cat(
            [
                torch.full((1, PER_IMAGE * number), SLOT),
                torch.randint(0, SLOT, (1, question), generator=generator),
            ],
            dim=1,
        )
        for number in images
    ]


def pictures() -> Tensor:
    """Return eight pictures, uint8[8, 3, 224, 224]."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (ROUNDS, 3, 224, 224), generator=generator)
    return pixels.to(torch.uint8)


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
