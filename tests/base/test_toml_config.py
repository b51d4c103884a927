"""TOML to dataclasses and back: every wrong key is named, every value returns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from vchat.base.toml_config import WrongKeyError, from_table, read_toml, to_table, to_toml


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section."""

    name: str
    mode: Literal["fast", "slow"] = "fast"
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A file."""

    inner: Inner
    folder: Path | None = None
    sizes: tuple[int, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


FULL = Outer(
    inner=Inner(name='say "hi"', mode="slow", rate=1e-3),
    folder=Path("a/b"),
    sizes=(3, 1),
    labels={"a key": "value"},
)


@pytest.mark.parametrize("value", [FULL, Outer(inner=Inner(name="x"))], ids=["all", "defaults"])
def test_what_is_written_is_read_back_as_an_equal_value(tmp_path: Path, value: Outer) -> None:
    (tmp_path / "file.toml").write_text(to_toml(value))
    assert read_toml(Outer, tmp_path / "file.toml") == value
    assert from_table(Outer, to_table(value), where="here") == value


def test_what_is_none_is_left_out() -> None:
    assert "folder" not in to_table(Outer(inner=Inner(name="x")))


@pytest.mark.parametrize(
    "table, message",
    [
        ({"inner": {"name": "x", "mod": "fast"}}, r"'mod' in \[inner\]; did you mean 'mode'\?"),
        ({"inner": {"name": "x"}, "xyz": 1}, r"'xyz' at the top level; known: inner, folder"),
        ({"inner": {}}, r"here: inner\.name is missing and has no default"),
        ({"inner": {"name": 1}}, r"here: inner\.name = 1; want a string"),
        ({"inner": {"name": "x", "mode": "odd"}}, r"inner\.mode = 'odd'; want one of 'fast'"),
        ({"inner": {"name": "x"}, "sizes": ["1"]}, r"sizes = '1'; want a whole number"),
    ],
)
def test_a_wrong_key_or_value_is_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(WrongKeyError, match=message):
        from_table(Outer, table, where="here")
