"""The page: complete in itself, safe against hostile data, even over sources."""

import base64
from html.parser import HTMLParser

import pytest

from vchat.shards.format.sample import StoredRound
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.shards.viewer.page import choose_samples, write_page
from vchat_testing.toy import publish_samples, sample_of, toy_image, toy_shards, toy_tokenizer

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"'\x1b[31m\x00&amp;{{ 7*7 }}"


class Page(HTMLParser):
    """The tags of a page, and the text of each supervised span."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.supervised: list[str] = []
        self.text = ""
        self._depth = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "span" and (self._depth or dict(attrs).get("class") == "supervised"):
            self.supervised += [""] if self._depth == 0 else []
            self._depth += 1

    def handle_endtag(self, tag):
        self._depth -= tag == "span" and self._depth > 0

    def handle_data(self, data):
        self.text += data
        if self._depth:
            self.supervised[-1] += data

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]


@pytest.fixture
def hostile_set(tmp_path):
    """One sample, hostile wherever a text can be."""
    tokenizer = TextTokenizer.load(toy_tokenizer(tmp_path / "tokenizer"))
    rounds = (StoredRound(images=(0,), question=HOSTILE, answer=HOSTILE),)
    sample = sample_of(f"toy/{HOSTILE}", tokenizer, rounds, (toy_image(0),), source=HOSTILE)
    facts = {"licences": {HOSTILE: HOSTILE}, "recipe": {HOSTILE: [HOSTILE]}}
    return publish_samples(tmp_path / "set", [sample], tokenizer=tokenizer, facts=facts)


def page_of(shards, path, **selection) -> Page:
    options = {"num": 50, "split": None, "source": None} | selection
    write_page(path, shards, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_marks_exactly_the_answers_and_their_end_tokens(tmp_path):
    shards = toy_shards(tmp_path / "set", num_samples=3, images_per_sample=1, num_eval=0)
    page = page_of(shards, tmp_path / "page.html")
    legend, *answers = page.supervised
    assert legend == "Marked text"
    assert answers == [
        "The square is red.</s>",
        "The square is blue.</s>",
        "The square is red.</s>",
    ]


def test_the_page_holds_every_image_and_loads_nothing(tmp_path):
    shards = toy_shards(tmp_path / "set", num_samples=2, images_per_sample=2, num_eval=0)
    page = page_of(shards, tmp_path / "page.html")
    stored = [image.data for i in range(2) for image in shards.read_sample(i).images]
    sources = page.attributes("img", "src")
    assert [base64.b64decode(uri.partition(",")[2]) for uri in sources] == stored
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in sources)
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base"} == set()
    assert page.attributes("script", "src") == page.attributes("a", "href") == []
    assert "default-src 'none'" in page.attributes("meta", "content")[0]


def test_hostile_text_is_shown_and_never_run(hostile_set, tmp_path):
    page = page_of(hostile_set, tmp_path / "page.html")
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert [tag for tag, _ in page.tags].count("img") == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE.replace("\x1b", "\u241b").replace("\x00", "\u2400") in page.text
    assert "\x1b" not in page.text
    assert "\x00" not in page.text
    assert "49" not in page.supervised[1]


def test_the_page_names_no_folder_of_this_machine(tmp_path):
    shards = toy_shards(tmp_path / "set", num_samples=2)
    write_page(tmp_path / "page.html", shards, num=9, split=None, source=None)
    assert str(tmp_path) not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_source_and_a_split_narrow_the_page(tmp_path):
    shards = toy_shards(tmp_path / "set", num_samples=6, images_per_sample=0)
    page = page_of(shards, tmp_path / "page.html", split="train", source="toy2")
    assert page.attributes("article", "data-source") == ["toy2"] * 3
    assert page.attributes("button", "data-source") == ["", "toy2"]


def test_a_set_without_samples_gives_a_page(tmp_path):
    shards = toy_shards(tmp_path / "set", num_samples=1, num_eval=0)
    page = page_of(shards, tmp_path / "page.html", num=0)
    assert page.attributes("article", "data-source") == []


@pytest.mark.parametrize("num, per_source", [(4, [2, 2]), (7, [3, 4]), (100, [3, 30])])
def test_dialogues_are_chosen_evenly_from_sources_of_any_size(tmp_path, num, per_source):
    shards = toy_shards(tmp_path / "set", num_samples=60, images_per_sample=0, num_eval=0)
    rows = shards.index()
    uneven = rows.take([i for i in range(60) if i % 2 or i < 6])
    chosen = choose_samples(uneven, num=num)
    sources = [uneven["source"][i].as_py() for i in chosen]
    assert [sources.count("toy"), sources.count("toy2")] == per_source
    assert chosen == sorted(set(chosen))
