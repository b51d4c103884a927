"""TOML tables to frozen dataclasses and back, strictly.

A table's keys are the dataclass's fields. An unknown key, a missing required key, or a value of
another type is a `WrongKeyError` that names the file, the key as the user wrote it, and a similar
known one.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from vchat.base.cli import WrongUse
from vchat.base.nearest import did_you_mean

T = TypeVar("T")

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class WrongKeyError(WrongUse):
    """A configuration key that is unknown, missing, or has a value of the wrong type."""


def read_toml(cls: type[T], path: Path, *, overrides: Sequence[str] = ()) -> T:
    """Read a file as a `cls`, with `section.key=value` overrides applied.

    Raises:
        WrongUse: The file is absent, or has a wrong key: then a WrongKeyError names both.
        ValueError: The file is not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise WrongUse(f"{path}: there is no such file") from err
    except tomllib.TOMLDecodeError as err:
        raise ValueError(f"{path}: not valid TOML: {err}") from err
    for override in overrides:
        apply_override(table, override)
    return from_table(cls, table, where=str(path))


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in the nested `table`; a value that is not TOML is a string."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise WrongKeyError(f"--set {override}: write section.key=value")
    *sections, key = name.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise WrongKeyError(f"--set {override}: {section} is a value, not a section")
    try:
        table[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[key] = text


def from_table(cls: type[T], table: Mapping[str, Any], *, where: str, section: str = "") -> T:
    """Build the dataclass `cls` from one table.

    Args:
        cls: The dataclass.
        table: Its values, nested.
        where: The file, for messages.
        section: Dotted name of this table, for messages; empty at the top.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in fields:
            raise WrongKeyError(
                _unknown_key_message(key, list(fields), where=where, section=section)
            )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        dotted = f"{section}.{name}" if section else name
        if name in table:
            values[name] = _convert(hints[name], table[name], where=where, dotted=dotted)
        elif _is_required(field):
            raise WrongKeyError(f"{where}: {dotted} is missing and has no default")
    try:
        return cls(**values)
    except WrongKeyError:
        raise
    except ValueError as err:
        raise WrongKeyError(f"{where}: [{section}] {err}") from err


def to_toml(config: object) -> str:
    """Return a dataclass of dataclasses as TOML, which `from_table` reads as an equal value."""
    return "\n".join(_lines(_plain(config), prefix="")) + "\n"


def to_table(config: object) -> dict[str, Any]:
    """Return a dataclass as nested dictionaries of JSON values, without fields that are None."""
    table: dict[str, Any] = _plain(config)
    return table


def _unknown_key_message(key: str, known: list[str], *, where: str, section: str) -> str:
    place = f"in [{section}]" if section else "at the top level"
    return f"{where}: unknown key {key!r} {place}; {did_you_mean(key, known)}"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, *, where: str, dotted: str) -> Any:
    """Return `value` as the type `hint`, one of the few that configs use."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_first_fit(arguments, value, where=where, dotted=dotted)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_table(typing.cast(type, hint), value, where=where, section=dotted)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where=where, dotted=dotted) for item in value)
    if origin is dict and isinstance(value, dict):
        return value
    if origin is Literal:
        if value in arguments:
            return value
        raise WrongKeyError(
            f"{where}: {dotted} = {value!r}; want one of {', '.join(map(repr, arguments))}"
        )
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise WrongKeyError(f"{where}: {dotted} = {value!r}; want {_describe(hint)}")


def _convert_first_fit(hints: Sequence[Any], value: Any, *, where: str, dotted: str) -> Any:
    problems = []
    for hint in hints:
        if hint is types.NoneType:
            continue
        try:
            return _convert(hint, value, where=where, dotted=dotted)
        except WrongKeyError as err:
            problems.append(err)
    if len(problems) == 1:
        raise problems[0]
    wanted = " or ".join(_describe(hint) for hint in hints if hint is not types.NoneType)
    raise WrongKeyError(f"{where}: {dotted} = {value!r}; want {wanted}")


def _describe(hint: Any) -> str:
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
        return "a table"
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_describe(typing.get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    return names.get(hint, "a path" if hint is Path else str(hint))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(item) for name, item in pairs if item is not None}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _lines(table: dict[str, Any], *, prefix: str) -> list[str]:
    """Return the lines of a table: its values first, then its tables under dotted headers."""
    values = {key: item for key, item in table.items() if not isinstance(item, dict)}
    lines = [f"{_key(key)} = {_literal(item)}" for key, item in values.items()]
    for key, item in table.items():
        if isinstance(item, dict):
            dotted = f"{prefix}{_key(key)}"
            lines += ["", f"[{dotted}]", *_lines(item, prefix=f"{dotted}.")]
    return lines


def _key(name: str) -> str:
    """Return a key as TOML; quoted if it has other characters than a bare one may have."""
    return name if BARE_KEY.fullmatch(name) else json.dumps(name)


def _literal(value: Any) -> str:
    """Return a value as TOML; strings, numbers, booleans and lists are those of JSON."""
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key)} = {_literal(item)}" for key, item in value.items())
        return "{" + inside + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
