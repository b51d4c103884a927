"""A build of own rows with system texts, images inside texts, answers without loss; its copies."""

from pathlib import Path

import pytest

from vchat.prep.convert.recipe import SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.prep.pipeline.retokenize import Retokenization, retokenize
from vchat.shards.format.open_shards import open_shards
from vchat.shards.inspect.verification import find_defects
from vchat_testing.building import toy_recipe
from vchat_testing.chat_shapes import chat_tokenizer
from vchat_testing.raw_data import turns, write_image, write_json

SYSTEMS = (None, "Be brief.", "Be long.")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    entries = []
    for number in range(30):
        write_image(folder / "data" / f"{number}.jpg", number=number)
        rounds = turns("Is <image> red?", "No.", "Sure?", f"Yes {number}.")
        rounds[1]["loss"] = number % 2 == 0
        entries.append({"id": str(number), "image": f"{number}.jpg", "conversations": rounds})
        if SYSTEMS[number % 3]:
            entries[-1]["system"] = SYSTEMS[number % 3]
    write_json(folder / "data" / "mine.json", entries)
    file = str(folder / "data" / "mine.json")
    source = (SourceChoice(name="mine", file=file, concatenate=3),)
    build_shards(toy_recipe(folder, out="set", source=source))
    return folder


def read_samples(folder: Path) -> list:
    shards = open_shards(folder)
    assert list(find_defects(shards, shard_done=lambda _: None)) == []
    return [shards.read_sample(number) for number in range(shards.index().num_rows)]


def test_dialogues_hold_what_their_rows_say_and_join_equal_system_texts(built):
    found = read_samples(built / "set")
    assert any(len(sample.records) > 1 for sample in found)
    for sample in found:
        for origin in sample.records:
            number = int(origin.record_id)
            first, second = sample.rounds[origin.first_round : origin.first_round + 2]
            assert sample.system == SYSTEMS[number % 3]
            assert (first.question, first.places) == ("Is  red?", (3,))
            assert (first.supervised, second.supervised) == (number % 2 == 0, True)


def test_a_set_for_another_tokenizer_keeps_what_the_rows_said(built, tmp_path):
    chat_tokenizer(tmp_path / "other", shape="qwen_2_5")
    request = Retokenization(
        shards=str(built / "set"),
        tokenizer=str(tmp_path / "other"),
        out=str(tmp_path / "new"),
        template="chat",
        system=None,
        max_tokens=4096,
        positions_per_image=5,
    )
    retokenize(request, workers=1)
    old, new = read_samples(built / "set"), read_samples(tmp_path / "new")
    assert [(one.rounds, one.system) for one in old] == [(one.rounds, one.system) for one in new]
    tokenizer = open_shards(tmp_path / "new").tokenizer()
    brief = next(one for one in new if one.system == "Be brief.")
    assert tokenizer.decode(brief.ids).startswith("<|im_start|>system\nBe brief.<|im_end|>")
