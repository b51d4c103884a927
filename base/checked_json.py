"""JSON from outside: parsed within bounds, and checked with errors that name the place.

manifest = CheckedJson(parse_json(data, name="manifest.json"), name="manifest.json")
for shard in manifest.member("shards").elements():
    shard.member("bytes").integer(0, 2**63 - 1)  # manifest.json: shards[3].bytes is -1, wanted ..
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from vchat.base.json_text import MAX_DEPTH

MAX_SHOWN = 60
"""Characters of a wrong value that an error shows."""


def parse_json(data: bytes, *, name: str) -> Any:
    """Parse one JSON document.

    Args:
        data: UTF-8.
        name: File or member, for errors.

    Raises:
        ValueError: It is not JSON, is nested deeper than `MAX_DEPTH`, names a key twice, or holds a
            number or a text that JSON cannot hold (NaN, half of a surrogate pair).
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except RecursionError as error:
        raise ValueError(_too_deep(name)) from error
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    _check_bounds(value, name)
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object")
    return found


def _check_bounds(value: Any, name: str) -> None:
    """Raise ValueError where a document is too deep or has a text that is not valid Unicode."""
    level, depth = [value], 0
    while level:
        if depth == MAX_DEPTH and any(isinstance(one, dict | list) for one in level):
            raise ValueError(_too_deep(name))
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.keys()
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str) and not one.isascii():
                _check_unicode(one, name)
        level = inner
        depth += 1


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is not JSON: {show_value(text)} holds half of a surrogate pair"
        ) from error


def _too_deep(name: str) -> str:
    return f"{name} is nested too deep, wanted at most {MAX_DEPTH} levels"


def show_value(value: object) -> str:
    """Return a value as one short line of printable ASCII, for an error."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


class CheckedJson:
    """A value of a JSON document that knows where it stands."""

    __slots__ = ("_parent", "_step", "name", "value")

    def __init__(
        self, value: Any, *, name: str, parent: CheckedJson | None = None, step: str | int = ""
    ):
        """Take a parsed value.

        Args:
            value: As `json.loads` gives it.
            name: The document, for errors.
            parent: What the value is part of; None for the whole document.
            step: Its key or number there.
        """
        self.value = value
        self.name = name
        self._parent, self._step = parent, step

    @property
    def place(self) -> str:
        """Where the value stands in its document: `shards[3].bytes`; keys are safe to print."""
        if self._parent is None:
            return ""
        step = f"[{self._step}]" if isinstance(self._step, int) else f".{self._step}"
        place = f"{self._parent.place}{step}".removeprefix(".")
        return place if place.isascii() and place.isprintable() else ascii(place)[1:-1]

    def fail(self, wanted: str) -> NoReturn:
        """Raise ValueError: document, place, value found, value wanted."""
        place = self.place or "the document"
        raise ValueError(f"{self.name}: {place} is {show_value(self.value)}, wanted {wanted}")

    def get(self, key: str) -> CheckedJson | None:
        """Return a member of an object, None if it is absent."""
        found = self.object()
        return self._inside(key, found[key]) if key in found else None

    def member(self, key: str) -> CheckedJson:
        """Return a member that must be there."""
        found = self.get(key)
        if found is None:
            place = f"{self.place} " if self._parent else ""
            raise ValueError(f"{self.name}: {place}lacks {key}")
        return found

    def members(self) -> Iterator[tuple[str, CheckedJson]]:
        """Yield key and value of each member of an object."""
        for key, value in self.object().items():
            yield key, self._inside(key, value)

    def elements(self) -> list[CheckedJson]:
        """Return the elements of an array."""
        if not isinstance(self.value, list):
            self.fail("an array")
        return [self._inside(number, one) for number, one in enumerate(self.value)]

    def only(self, keys: set[str]) -> None:
        """Refuse an object with other members than these."""
        for key in self.object():
            if key not in keys:
                self.fail(f"an object without {show_value(key)}")

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            self.fail("true or false")
        found: bool = self.value
        return found

    def object(self) -> dict[str, Any]:
        """Return an object as it is."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        found: dict[str, Any] = self.value
        return found

    def text(self, pattern: re.Pattern[str] | None = None, *, wanted: str = "a string") -> str:
        """Return a string; all of it must match the pattern, if there is one."""
        if not isinstance(self.value, str):
            self.fail(wanted)
        if pattern is not None and pattern.fullmatch(self.value) is None:
            self.fail(wanted)
        found: str = self.value
        return found

    def integer(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        if type(self.value) is not int or not low <= self.value <= high:
            self.fail(f"an integer from {low} to {high}")
        found: int = self.value
        return found

    def _inside(self, step: str | int, value: Any) -> CheckedJson:
        return CheckedJson(value, name=self.name, parent=self, step=step)
