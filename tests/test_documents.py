"""Documents: links lead somewhere, what a newcomer asks for is near, code has public names."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "shards/format/FORMAT.md"]
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FACES = {"vchat", "vchat.prep", "vchat.shards", "vchat.model", "vchat.train"}

WANTED = {
    "where the order of samples is decided": "shards/plan/epoch.py",
    "where a chat template becomes tokens": "shards/text/chat_template.py",
    "what happens when a read from object storage fails": "shards/storage/retries.py",
    "where a new source is added": "prep/sources/catalogue.py",
    "where `vchat-train where` lives": "train/where",
    "who may import whom": "pyproject.toml",
}


def links_of(document: Path) -> list[Path]:
    """Return the files and folders of the repository that a document links to."""
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    return [
        (document.parent / target).resolve()
        for target in targets
        if not target.startswith(("http://", "https://", "mailto:"))
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_to_something(document):
    assert [str(target) for target in links_of(document) if not target.exists()] == []


@pytest.mark.parametrize("question", WANTED)
def test_what_a_newcomer_asks_for_is_two_links_from_the_readme(question):
    first = set(links_of(ROOT / "README.md"))
    second = {link for page in first if page.suffix == ".md" for link in links_of(page)}
    assert ROOT / WANTED[question] in first | second


def test_every_document_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            waiting += [link for link in links_of(page) if link.suffix == ".md"]
    assert set(DOCUMENTS) - seen == set()


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def imported_modules(text: str) -> set[str]:
    """Return the modules of ours that a text of code or prose with code imports from."""
    return set(re.findall(r"^\s*(?:from|import) (vchat(?:\.\w+)*)", text, flags=re.M))


EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT))
)
def test_documents_and_examples_import_public_names_only(path):
    assert imported_modules(path.read_text(encoding="utf-8")) <= FACES


def test_the_code_map_has_every_room_once():
    rooms = sorted(
        str(path.parent.relative_to(ROOT))
        for package in ("base", "prep", "shards", "model", "train")
        for path in [ROOT / package / "__init__.py", *(ROOT / package).glob("*/__init__.py")]
    )
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (?:\*\*)?\[[^]]+\]\(([^)]+)\)(?:\*\*)? \|", text, flags=re.M)
    assert sorted(listed) == rooms


LIMITS = [
    (name, int(number))
    for number, name in re.findall(
        r"\| (\d+) \| [^|]+ \| `([\w.]+)` \|", (ROOT / "docs/limits.md").read_text(encoding="utf-8")
    )
]


def test_the_table_of_limits_is_found():
    assert len(LIMITS) > 20


@pytest.mark.parametrize("name, number", LIMITS)
def test_a_limit_in_the_document_is_that_of_the_code(name, number):
    module, _, constant = name.rpartition(".")
    assert getattr(importlib.import_module(module), constant) == number


def test_the_tests_that_a_document_names_exist():
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"`(tests/[^`:]+)", document.read_text(encoding="utf-8"))
    }
    assert {name for name in named if not (ROOT / name).exists()} == set()
