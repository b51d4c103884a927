"""A sample as the model reads it: its token ids as text and image slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vchat.shards.format.sample import Sample
from vchat.shards.text.tokenizer import TextTokenizer

MAX_TOKENS_PER_CHARACTER = 8
"""Up to so many ids that are bytes of one character are shown as one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpan:
    """Neighbouring ids of one kind: an image slot, or text with or without loss."""

    image: int | None
    """Number of the image in the sample, for a slot."""

    supervised: bool
    pieces: tuple[str, ...]
    """The text, token by token; joined it is what the ids decode to."""

    @property
    def text(self) -> str:
        """The text of all its ids."""
        return "".join(self.pieces)


def token_spans(sample: Sample, tokenizer: TextTokenizer) -> list[TokenSpan]:
    """Return a sample's ids as text and slots, in order: exactly what the model reads."""
    found = []
    kinds = zip(sample.ids.tolist(), sample.supervised.tolist(), strict=True)
    images = iter(range(len(sample.ids)))
    for (is_slot, supervised), group in groupby(
        kinds, key=lambda pair: (pair[0] == tokenizer.image_id, pair[1])
    ):
        ids = [token for token, _ in group]
        if is_slot:
            found += [TokenSpan(image=next(images), supervised=supervised, pieces=()) for _ in ids]
        else:
            pieces = tuple(_pieces(ids, tokenizer))
            found.append(TokenSpan(image=None, supervised=supervised, pieces=pieces))
    return found


def _pieces(ids: Sequence[int], tokenizer: TextTokenizer) -> list[str]:
    """Return the text of each id; ids that are bytes of one character give one piece."""
    pieces: list[str] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = tokenizer.decode(waiting)
        if "\ufffd" not in text or len(waiting) == MAX_TOKENS_PER_CHARACTER:
            pieces.append(text)
            waiting = []
    if waiting:
        pieces.append(tokenizer.decode(waiting))
    whole = tokenizer.decode(ids)
    return pieces if "".join(pieces) == whole else [whole]
