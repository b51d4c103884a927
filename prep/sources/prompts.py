"""Instructions for data sets that have none: one of a fixed list, chosen by the record's key.

The choice depends on the key alone, so it is the same in every build.
"""

from __future__ import annotations

from collections.abc import Sequence

from vchat.prep.raw.keyed_hash import keyed_hash

BRIEF = (
    "Describe the image in one sentence.",
    "What does the image show, in short?",
    "Give a short caption for this image.",
    "Write one sentence about what is in the image.",
    "Briefly, what can be seen here?",
)
"""For captions of one sentence."""

DETAILED = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Give a detailed description of the picture.",
    "What is in this image? Describe it thoroughly.",
    "Explain in several sentences what the image shows.",
)
"""For captions of a paragraph."""

REASONS = ("Explain why.", "Give the reasons.", "Why is that?", "How can you tell?")
"""Appended to a question whose answer gives reasons."""


def prompt_for(key: str, prompts: Sequence[str]) -> str:
    """Return one of the prompts; over many keys, each is equally frequent."""
    return prompts[keyed_hash(0, "prompt", key) % len(prompts)]
