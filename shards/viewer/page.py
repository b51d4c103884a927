"""One self-contained page of a shard set: a summary, then dialogues as the model reads them.

Everything on it comes from data and is escaped by jinja2; the page carries its images as data
URIs, loads nothing, and its content security policy lets it load nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vchat.base.files import write_atomically
from vchat.base.page import load_page
from vchat.base.terminal_text import escape_controls
from vchat.shards.format.sample import Sample, StoredImage
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.inspect.overview import overview, select_samples
from vchat.shards.inspect.terminal import format_size
from vchat.shards.inspect.token_spans import TokenSpan, token_spans

MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewedDialogue:
    """One sample, prepared for the page."""

    sample: Sample
    spans: list[TokenSpan]
    """What the model reads, in order."""

    num_opening: int
    """Pieces of the first span that spell the opening, the same in every dialogue: folded."""

    location: str
    """Shard and stem."""

    num_text_tokens: int
    num_supervised: int


def write_page(
    path: Path, shards: ShardSet, *, num: int, split: str | None, source: str | None
) -> int:
    """Write the page and return how many dialogues it shows.

    Args:
        path: the HTML file.
        shards: the set.
        num: how many dialogues at most, taken evenly from every source.
        split: only this one, None for all.
        source: only this one, None for all.
    """
    rows = select_samples(shards, split=split, source=source)
    chosen = choose_samples(rows, num=num)
    page = load_page(
        Path(__file__).with_name("page.html"),
        filters={
            "visible": escape_controls,
            "size": format_size,
            "data_uri": data_uri,
            "pretty": _pretty,
        },
    )
    stream = page.stream(
        overview=overview(shards, split=split, source=source),
        recipe=shards.manifest.get("recipe"),
        sources=sorted(rows["source"].unique().to_pylist()),
        dialogues=_read_dialogues(shards, rows, chosen),
        num_dialogues=len(chosen),
    )
    with write_atomically(path) as file:
        stream.dump(file, encoding="utf-8")
    return len(chosen)


def choose_samples(rows: pa.Table, *, num: int) -> list[int]:
    """Return at most `num` row numbers, ascending: as evenly over sources as they allow.

    Within a source they are evenly spaced, so the choice depends on the rows alone.
    """
    codes = rows["source"].combine_chunks().indices.to_numpy()
    of_source = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    chosen: list[int] = []
    # The smallest source first: what it cannot fill goes to the others.
    for position, found in enumerate(sorted(of_source, key=len)):
        share = min(len(found), (num - len(chosen)) // (len(of_source) - position))
        spaced = np.arange(share) * len(found) // max(share, 1)
        chosen += found[spaced].tolist()
    return sorted(chosen)


def data_uri(image: StoredImage) -> str:
    """Return an image as a URI that holds it."""
    return f"data:{MEDIA_TYPES[image.extension]};base64,{base64.b64encode(image.data).decode()}"


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _read_dialogues(
    shards: ShardSet, rows: pa.Table, chosen: list[int]
) -> Iterator[ViewedDialogue]:
    """Read one dialogue at a time: the page is written as they are read."""
    tokenizer = shards.tokenizer()
    opening = tokenizer.decode(tokenizer.encode(shards.template.opening()).ids.tolist())
    for number in chosen:
        row: dict[str, Any] = rows.slice(number, 1).to_pylist()[0]
        sample = shards.read_sample(row)
        found = token_spans(sample, tokenizer)
        yield ViewedDialogue(
            sample=sample,
            spans=found,
            num_opening=_num_opening(found[0].pieces, opening),
            location=f"{shards.shard_name(row)} {row['stem']}",
            num_text_tokens=row["text_tokens"],
            num_supervised=row["supervised_tokens"],
        )


def _num_opening(pieces: Sequence[str], opening: str) -> int:
    """Return how many pieces spell the opening; 0 if a token reaches across its end."""
    lengths = list(accumulate(len(piece) for piece in pieces))
    if len(opening) not in lengths or not "".join(pieces).startswith(opening):
        return 0
    return lengths.index(len(opening)) + 1
