"""A set for another decoder: the same rounds and image bytes, nothing lost, equal bytes again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from vchat.prep.commands.retokenize import command
from vchat.prep.convert.recipe import SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.prep.pipeline.retokenize import Retokenization, retokenize, retokenize_shard
from vchat.prep.tasks.result import read_results
from vchat.shards.format.open_shards import open_shards
from vchat.shards.inspect.verification import find_defects
from vchat_testing.building import read_files, toy_recipe
from vchat_testing.chat_shapes import chat_tokenizer
from vchat_testing.range_server import serve_folder
from vchat_testing.raw_data import write_llava
from vchat_testing.set_editor import SetEditor


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder of a set of several shards in two splits, and of a chat tokenizer."""
    folder = tmp_path_factory.mktemp("retokenize")
    write_llava(folder / "data", count=24)
    chat_tokenizer(folder / "other", shape="qwen_2_5")
    source = (SourceChoice(name="llava", concatenate=3),)
    build_shards(toy_recipe(folder, out="set", source=source))
    shutil.rmtree(folder / "data")
    return folder


def make_request(built: Path, out: Path, **changed) -> Retokenization:
    given = Retokenization(
        shards=str(built / "set"),
        tokenizer=str(built / "other"),
        out=str(out),
        template="chat",
        system=None,
        max_tokens=4096,
        positions_per_image=5,
    )
    return replace(given, **changed)


def samples(folder: Path) -> list:
    shards = open_shards(folder)
    return [shards.read_sample(number) for number in range(shards.index().num_rows)]


def test_rounds_and_image_bytes_are_those_of_the_set(built, tmp_path):
    manifest = retokenize(make_request(built, tmp_path / "new"), workers=1)
    old, new = samples(built / "set"), samples(tmp_path / "new")
    assert len(manifest["shards"]) > 2
    for a, b in zip(old, new, strict=True):
        assert (a.key, a.split, a.records) == (b.key, b.split, b.records)
        assert (a.rounds, a.images) == (b.rounds, b.images)
    assert new[0].ids.tolist() != old[0].ids.tolist()
    assert list(find_defects(open_shards(tmp_path / "new"), shard_done=lambda _: None)) == []


def test_the_same_tokenizer_and_template_give_the_ids_of_the_build(built, tmp_path):
    old = open_shards(built / "set").manifest
    same = make_request(built, tmp_path / "new", tokenizer=str(built / "tokenizer"))
    retokenize(replace(same, template="visualchat", system=old["template"]["system"]), workers=1)
    for a, b in zip(samples(built / "set"), samples(tmp_path / "new"), strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.supervised.tolist() == b.supervised.tolist()


def test_the_manifest_says_what_the_set_came_from(built, tmp_path):
    old = open_shards(built / "set").manifest
    manifest = retokenize(make_request(built, tmp_path / "new"), workers=1)
    assert manifest["retokenized"]["from"]["digests"] == old["digests"]
    assert manifest["retokenized"]["from"]["template"] == old["template"]
    assert manifest["digests"]["inputs"] == old["digests"]["inputs"]
    assert manifest["template"] == {"name": "chat", "system": None, "frame_version": 1}
    assert manifest["totals"]["records"] == old["totals"]["records"]


def test_dialogues_that_are_too_long_are_split_or_rejected_and_counted(built, tmp_path):
    lengths = [len(sample.ids) for sample in samples(built / "set")]
    manifest = retokenize(make_request(built, tmp_path / "new", max_tokens=min(lengths)), workers=1)
    counts = manifest["retokenized"]
    assert counts["split_dialogues"] > 0
    records = open_shards(built / "set").manifest["totals"]["records"]
    rejected = sum(counts["rejected"].get("llava", {"counts": {}})["counts"].values())
    assert counts["used_records"]["llava"] + rejected == records
    made = samples(tmp_path / "new")
    assert len({sample.key for sample in made}) == len(made)
    assert all(len(s.ids) + 4 * len(s.images) <= min(lengths) for s in made)
    assert list(find_defects(open_shards(tmp_path / "new"), shard_done=lambda _: None)) == []


def test_a_pair_that_is_lost_is_noticed_before_the_set_is_published(built, tmp_path, monkeypatch):
    def lose_a_pair(shards, *, output):
        counts, finished = read_results(shards, output=output)
        counts[0].used_pairs["llava"] -= 1
        return counts, finished

    monkeypatch.setattr("vchat.prep.pipeline.retokenize.read_results", lose_a_pair)
    with pytest.raises(ValueError, match=r"llava: \d+ pairs in records, but \d+ accounted for"):
        retokenize(make_request(built, tmp_path / "new"), workers=1)
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_a_limit_that_nothing_fits_is_refused(built, tmp_path):
    with pytest.raises(ValueError, match=r"no round of .*set fits into 3 positions"):
        retokenize(make_request(built, tmp_path / "new", max_tokens=3), workers=1)


def test_two_workers_write_the_same_bytes(built, tmp_path):
    retokenize(make_request(built, tmp_path / "one"), workers=1)
    retokenize(make_request(built, tmp_path / "two"), workers=2)
    assert read_files(tmp_path / "one") == read_files(tmp_path / "two")


def test_shards_that_are_finished_are_not_written_again(built, tmp_path, monkeypatch):
    done = []
    task = retokenize_shard

    def interrupted(given, shard):
        if len(done) == 2:
            raise OSError("no space")
        done.append(shard.name)
        return task(given, shard)

    monkeypatch.setattr("vchat.prep.pipeline.retokenize.retokenize_shard", interrupted)
    with pytest.raises(OSError, match="no space"):
        retokenize(make_request(built, tmp_path / "new"), workers=1)
    assert not (tmp_path / "new" / "manifest.json").exists()
    monkeypatch.setattr(
        "vchat.prep.pipeline.retokenize.retokenize_shard",
        lambda given, shard: done.append(shard.name) or task(given, shard),
    )
    retokenize(make_request(built, tmp_path / "new"), workers=1)
    monkeypatch.undo()
    assert len(done) == len(set(done)) == len(open_shards(built / "set").manifest["shards"])
    retokenize(make_request(built, tmp_path / "whole"), workers=1)
    assert read_files(tmp_path / "new") == read_files(tmp_path / "whole")


def test_another_set_in_the_folder_is_refused_and_the_same_one_is_found_complete(built, tmp_path):
    first = retokenize(make_request(built, tmp_path / "new"), workers=1)
    assert retokenize(make_request(built, tmp_path / "new"), workers=1) == first
    with pytest.raises(ValueError, match=r"new holds another build: its plan is .{16}, the one"):
        retokenize(make_request(built, tmp_path / "new", max_tokens=100), workers=1)
    with pytest.raises(ValueError, match=r"set holds another build"):
        retokenize(make_request(built, built / "set"), workers=1)


def test_the_command_takes_from_the_set_what_no_flag_says(built, tmp_path):
    given = [str(built / "set"), "--tokenizer", str(built / "other"), "--out", str(tmp_path / "n")]
    done = CliRunner().invoke(command, given, catch_exceptions=False)
    assert done.exit_code == 0
    assert "0 dialogues were too long" in done.output
    old, new = (open_shards(folder).manifest for folder in (built / "set", tmp_path / "n"))
    for name in ("template", "max_tokens", "positions_per_image", "image", "licences"):
        assert new[name] == old[name]


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_set_cannot_name_files_outside_of_the_output(built, tmp_path, is_remote, is_absolute):
    """The shards of the new set have the names of the old one's."""
    edited = SetEditor(shutil.copytree(built / "set", tmp_path / "a" / "set"))
    victim = tmp_path / "a" / "backup.tar"
    victim.write_text("my backup")
    name = str(victim) if is_absolute else "../backup.tar"
    edited.manifest["shards"][0]["name"] = name
    folder = edited.write_manifest()
    out = tmp_path / "a" / "made"
    with serve_folder(folder) as served:
        place = served.url if is_remote else str(folder)
        with pytest.raises(ValueError, match=r"manifest\.json: shards\[0\]\.name is .*, wanted"):
            retokenize(make_request(built, out, shards=place), workers=1)
    assert victim.read_text() == "my backup"
    assert not out.exists()
