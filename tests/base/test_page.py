"""One convention for HTML pages: a template file, its own style, one base."""

import re
from pathlib import Path

import jinja2
import pytest

from vchat.base.page import load_page

ROOT = Path(__file__).parents[2]
BASE = ROOT / "base" / "page.html"
PAGES = sorted(
    file
    for folder in ("base", "model", "prep", "shards", "train")
    for file in (ROOT / folder).rglob("*.html")
    if file != BASE
)


def test_there_are_five_pages_and_no_html_in_python():
    assert len(PAGES) == 5
    sources = (
        file for folder in ("prep", "shards", "train") for file in (ROOT / folder).rglob("*.py")
    )
    assert [file for file in sources if "<!doctype" in file.read_text().lower()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_extends_the_base_and_has_its_style_in_a_file_beside_it(page):
    text = page.read_text()
    assert text.startswith('{% extends "base/page.html" %}')
    (style,) = re.findall(r'\{% include "([^"]*)" %\}', text)
    assert style == page.with_suffix(".css").name
    assert (page.parent / style).is_file()
    assert "<style" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_style_uses_only_colours_that_the_base_defines(page):
    defined = set(re.findall(r"(--[a-z-]+):", (BASE.parent / "page.css").read_text()))
    used = set(re.findall(r"var\((--[a-z-]+)\)", page.with_suffix(".css").read_text()))
    assert used <= defined


def test_values_are_escaped_undefined_names_are_errors_and_no_script_may_run(tmp_path):
    file = tmp_path / "a.html"
    file.write_text(
        '{% extends "base/page.html" %}\n{% block body %}{{ title }}{{ 3 | double }}{% endblock %}'
    )
    page = load_page(file, filters={"double": lambda value: 2 * value})
    html = page.render(title="<b>")
    assert "&lt;b&gt;6" in html
    assert "<b>" not in html
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    with pytest.raises(jinja2.UndefinedError, match="title"):
        page.render()
