"""Segments of text as token ids, by a tokenizer that finds no special token in them.

A segment is the text between two special tokens. It is tokenized once, as running text. Three
cases, in which the tokenizers library would behave differently, are settled here:

* The spelling of an added token in the text is not recognised, whether the token is flagged as
  special or not (tokens of white space alone are recognised: a run of blanks is text). Nothing is
  escaped or altered.
* At a supervision boundary the ids before it are exactly those of the text before it alone, and
  no token crosses it. Where running text would break either rule, it is cut there.
* Text after a cut gets no prefix blank of its own (Llama and Metaspace tokenizers add one).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from vchat.shards.text.template import Text, UnsupervisedAnswer


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens of a text."""

    ids: list[int]
    span: Callable[[int], tuple[int, int]]
    """Of a token's number: its characters (start, end). Several tokens may share one character."""


class TextEncoder:
    """Encodes segments of text with the model of one `tokenizer.json`."""

    def __init__(self, spec: dict[str, Any]):
        """Build the tokenizers that a segment may need.

        Args:
            spec: The content of a `tokenizer.json` that the tokenizers library accepts.
        """
        self._spec = spec
        later = _without_prefix(spec, schemes=("first",))
        continuing = _without_prefix(spec, schemes=("first", "always"))
        self._opening = _make_text_tokenizer(spec)
        self._later = self._opening if later == spec else _make_text_tokenizer(later)
        self._continuing = self._later if continuing == later else _make_text_tokenizer(continuing)
        self._tokens = lru_cache(maxsize=64)(self._tokenize)
        """Cached: dialogues begin alike, and each prompt is encoded with and without its answer."""

        self._controls = {
            token["id"]: token["content"] for token in spec["added_tokens"] if _is_control(token)
        }

    def __reduce__(self) -> tuple[type[TextEncoder], tuple[dict[str, Any]]]:
        return TextEncoder, (self._spec,)  # another process fills its own cache

    def encode_segment(
        self, texts: Sequence[Text], *, opening: bool
    ) -> Iterator[tuple[list[int], bool]]:
        """Yield `(ids, supervised)` of each span of equal supervision in a segment.

        If texts are dropped from the end, where an answer begins or ends, the last ids are dropped
        and no other id changes.

        Args:
            texts: The segment, in order; boundaries matter only where an answer begins or ends.
            opening: Whether the segment opens a dialogue; any other follows a special token.
        """
        tokenizer = self._opening if opening else self._later
        text, ids = "", list[int]()
        for (supervised, _), group in groupby(
            texts, key=lambda part: (part.supervised, isinstance(part, UnsupervisedAnswer))
        ):
            added = "".join(part.text for part in group)
            whole = self._tokens(tokenizer, text + added)
            if not _continues(ids, whole, boundary=len(text)):
                tokenizer, text, ids = self._continuing, "", []
                whole = self._tokens(tokenizer, added)
            yield whole.ids[len(ids) :], supervised
            text, ids = text + added, whole.ids

    def _tokenize(self, tokenizer: Tokenizer, text: str) -> _Tokens:
        """Tokenize text; where the model itself makes a control token, cut the spelling."""
        try:
            encoding = tokenizer.encode(text, add_special_tokens=False)
        except TypeError as error:
            raise ValueError(f"text is not valid Unicode: {_lone_surrogate(text)}") from error
        span = encoding.token_to_chars  # gives None only after the last token
        whole = _Tokens(encoding.ids, span)  # type: ignore[arg-type]
        if self._controls.keys().isdisjoint(whole.ids):
            return whole
        cut = self._cut_inside_control(text, whole.ids, encoding.offsets)
        if cut is None:
            return whole
        head = self._tokens(tokenizer, text[:cut])
        return _join(head, self._tokens(self._continuing, text[cut:]), cut=cut)

    def _cut_inside_control(
        self, text: str, ids: list[int], spans: list[tuple[int, int]]
    ) -> int | None:
        """Return where to cut the first spelled control token, or None if there is none.

        An unknown-token id for a character outside the vocabulary is not a spelling.
        """
        for token, (start, end) in zip(ids, spans, strict=True):
            spelling = self._controls.get(token, "")
            found = text.find(spelling, start, end)
            if len(spelling) > 1 and found >= 0:
                return found + 1
        return None


def _join(head: _Tokens, tail: _Tokens, *, cut: int) -> _Tokens:
    """Return the tokens of a text that was cut before character `cut`."""

    def span(token: int) -> tuple[int, int]:
        if token < len(head.ids):
            return head.span(token)
        start, end = tail.span(token - len(head.ids))
        return start + cut, end + cut

    return _Tokens(head.ids + tail.ids, span)


def _continues(before: list[int], whole: _Tokens, *, boundary: int) -> bool:
    """Whether `whole` begins with the ids `before` and no token crosses the boundary."""
    ids, n = whole.ids, len(before)
    if ids[:n] != before:
        return False
    ends_before = n == 0 or whole.span(n - 1)[1] <= boundary
    return ends_before and (n == len(ids) or whole.span(n)[0] >= boundary)


def _is_control(token: dict[str, Any]) -> bool:
    return not token["content"].isspace()


def _make_text_tokenizer(spec: dict[str, Any]) -> Tokenizer:
    """Build a tokenizer that treats all of its input as text and adds nothing."""
    added = [{**token, "special": _is_control(token)} for token in spec["added_tokens"]]
    model = spec["model"]
    plain = {
        **spec,
        "added_tokens": added,
        "model": {**model, "dropout": None} if "dropout" in model else model,
        "post_processor": None,  # would trim blanks from the offsets
        "truncation": None,
        "padding": None,
    }
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _without_prefix(spec: dict[str, Any], *, schemes: Sequence[str]) -> dict[str, Any]:
    """Return the spec without the prefix blanks of these schemes: `first` piece, `always`."""
    changed = copy.copy(spec)
    for stage in ("normalizer", "pre_tokenizer"):
        changed[stage] = _stage_without_prefix(spec.get(stage), schemes)
    return changed


def _stage_without_prefix(stage: Any, schemes: Sequence[str]) -> Any:
    """Return one normalizer or pre-tokenizer, or None if nothing of it is left."""
    if stage is None:
        return None
    always = "always" in schemes
    if stage["type"] == "Sequence":
        field = "normalizers" if "normalizers" in stage else "pretokenizers"
        inner = [_stage_without_prefix(part, schemes) for part in stage[field]]
        return {**stage, field: [part for part in inner if part is not None]}
    if stage["type"] == "Prepend" and always:
        return None
    if stage["type"] == "ByteLevel" and always and "add_prefix_space" in stage:
        return {**stage, "add_prefix_space": False}
    if stage["type"] == "Metaspace":
        scheme = stage.get("prepend_scheme") or (
            "always" if stage.get("add_prefix_space", True) else "never"
        )
        return {
            **{name: value for name, value in stage.items() if name != "add_prefix_space"},
            "prepend_scheme": "never" if scheme in schemes else scheme,
        }
    return stage


def _lone_surrogate(text: str) -> str:
    number = next((i for i, one in enumerate(text) if "\ud800" <= one <= "\udfff"), -1)
    return f"a lone surrogate at character {number}"
