"""The words of the code: functions are verbs or nouns, and the field's terms stand for ours."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("base", "prep", "shards", "model", "train")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
BENCHMARKS = sorted((ROOT / "bench").glob("*.py"))
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "Makefile", ROOT / "demo.sh"]
    + [
        path
        for package in PACKAGES
        for end in ("md", "html", "toml")
        for path in (ROOT / package).rglob(f"*.{end}")
    ]
)

IRREGULAR = {
    *("begun", "bound", "bought", "brought", "built", "caught", "chosen", "dealt", "done", "drawn"),
    *(
        "driven",
        "fed",
        "felt",
        "found",
        "given",
        "gone",
        "grown",
        "heard",
        "held",
        "hidden",
        "kept",
    ),
    *("known", "laid", "left", "lent", "lost", "made", "meant", "met", "paid", "said", "seen"),
    *("sent", "shown", "shut", "sold", "spent", "stood", "sunk", "taken", "taught", "thought"),
    *("told", "torn", "understood", "woken", "won", "worn", "written"),
}
NO_PARTICIPLES = {
    "deepspeed",
    "embed",
    "exceed",
    "feed",
    "need",
    "proceed",
    "seed",
    "speed",
}
"""Verbs and nouns that end like a participle."""

TERMS = {"keyed_hash"}
"""Names that are a term of the field."""

REPLACED = {
    r"\bstretch(es)?\b": "segment, span or dialogue",
    r"\bkeepers?\b": "cache filler",
    r"\blets? go of\b": "evict, release",
    r"\bdistrust(s|ed)?\b": "invalidate",
    r"\b[Hh]ear(s)? that\b": "is told: name the call",
    r"\bread(s|ing)?[ -]ahead\b": "prefetch",
    r"\b[Ss]o often\b": "how often",
    r"\bare dealt out\b": "are dealt",
}
"""Idioms of an earlier dialect, with what is written now."""


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (
        len(word) > 3 and word.endswith("ed") and word not in NO_PARTICIPLES
    )


def public_functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            yield node


def prose(source: str) -> str:
    """Return the comments and strings of a file, with blanks for line breaks."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    words = [t.string for t in tokens if t.type in (tokenize.COMMENT, tokenize.STRING)]
    return " ".join(" ".join(words).split())


def flatten(path: Path) -> str:
    """Return the text of a document, with blanks for line breaks."""
    return " ".join(path.read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    "path", [*FILES, *BENCHMARKS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_public_function_is_named_by_a_participle(path):
    names = [function.name for function in public_functions(ast.parse(path.read_text()))]
    first_words = {name: name.partition("_")[0] for name in names if name not in TERMS}
    assert [name for name, word in first_words.items() if is_participle(word)] == []


@pytest.mark.parametrize(
    "path", [*FILES, *BENCHMARKS, *DOCUMENTS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_text_uses_a_word_that_was_replaced(path):
    text = prose(path.read_text(encoding="utf-8")) if path.suffix == ".py" else flatten(path)
    found = {
        text[max(0, match.start() - 20) : match.end() + 20]: instead
        for pattern, instead in REPLACED.items()
        for match in re.finditer(pattern, text)
    }
    assert found == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_answers_instead_of_telling(path):
    documented = public_functions(ast.parse(path.read_text()))
    texts = {function.name: ast.get_docstring(function) or "" for function in documented}
    assert {name for name, text in texts.items() if re.match(r"(Yes|No)\b[.,;]", text)} == set()


def test_a_class_name_has_one_meaning():
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
