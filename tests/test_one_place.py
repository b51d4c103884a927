"""One idea, one place: a library or a number that several files could use has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("base", "prep", "shards", "model", "train")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

OWNERS = {
    "fcntl": {"base/locks.py"},  # locks between processes
    "difflib": {"base/nearest.py"},  # suggestions for mistyped names
    "obstore": {  # object storage and its retries
        "shards/storage/client.py",
        "shards/storage/credentials.py",
        "shards/storage/remote.py",
        "shards/storage/retries.py",
    },
}
"""Libraries, and the files that may import them."""

CONSTANTS = {
    30_000: {"shards/pixels/limits.py"},
    80_000_000: {"shards/pixels/limits.py"},
    -100: {"model/decoding.py", "shards/loading/collate.py"},  # which know nothing of each other
}
"""Numbers that are limits or marks, and the files that may state them."""


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def stated(path: Path) -> Iterator[int]:
    """Yield the whole numbers in the code of a file, with their signs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            yield -node.operand.value if isinstance(node.operand.value, int) else 0


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owners_only(library: str) -> None:
    users = {str(path.relative_to(ROOT)) for path in FILES if library in imported(path)}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("number", CONSTANTS)
def test_a_number_is_stated_by_its_owners_only(number: int) -> None:
    users = {str(path.relative_to(ROOT)) for path in FILES if number in stated(path)}
    assert users <= CONSTANTS[number]
