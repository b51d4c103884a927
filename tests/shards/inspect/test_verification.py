"""Every kind of damage is found, and named: file, sample, what was found and what was wanted."""

import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vchat.shards.format.open_shards import open_shards
from vchat.shards.inspect.verification import find_defects
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.set_editor import SetEditor
from vchat_testing.toy import publish_samples, toy_image, toy_sample, toy_shards, toy_tokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return toy_shards(tmp_path_factory.mktemp("verified") / "set", num_samples=6)


@pytest.fixture
def copied(published, tmp_path):
    return shutil.copytree(published.folder, tmp_path / "set")


@pytest.fixture(scope="module")
def tokenizer(published):
    return published.tokenizer()


def defects(folder) -> list[str]:
    return [
        str(defect) for defect in find_defects(open_shards(folder), shard_done=lambda done: None)
    ]


def flip(path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def member_offset(folder, number: int, name: str) -> int:
    members = open_shards(folder).index().to_pylist()[number]["members"]
    return next(member["offset"] for member in members if member["name"] == name)


def test_a_sound_set_has_no_defect(published):
    done = []
    assert list(find_defects(published, shard_done=done.append)) == []
    assert done == [1, 1, 1]


def test_a_flipped_bit_in_an_image_is_found_in_file_and_member(copied):
    flip(copied / "train-000000.tar", member_offset(copied, 1, "0.jpg") + 60)
    found = defects(copied)
    assert found[0].startswith("train-000000.tar: sha256: found '")
    assert found[1].startswith("train-000000.tar, sample 000000001 (toy2/1): member 0.jpg: found {")
    assert len(found) == 2


def test_a_truncated_shard_is_found_and_names_the_samples_it_lost(copied):
    path = copied / "train-000000.tar"
    path.write_bytes(path.read_bytes()[: member_offset(copied, 3, "json") + 10])
    found = "\n".join(defects(copied))
    assert "train-000000.tar: size: found" in found
    assert "train-000000.tar: tar: found unexpected end of data" in found
    assert "sample 000000003 (toy2/3): tar entries: found none, wanted a sample" in found
    assert "sample 000000004 (toy/4): tar entries: found none" in found
    assert "sample 000000002" not in found


def test_a_missing_shard_is_one_defect(copied):
    (copied / "eval-000000.tar").unlink()
    assert len(defects(copied)) == 1
    assert defects(copied)[0].startswith("eval-000000.tar: file: found nothing")


def test_a_shard_that_no_manifest_lists_is_found(copied):
    shutil.copy(copied / "eval-000000.tar", copied / "eval-000001.tar")
    assert defects(copied) == ["eval-000001.tar: manifest.json: found no entry, wanted one"]


def test_shards_of_equal_size_that_changed_places_are_found(tmp_path, tokenizer):
    """Sizes agree and every file is sound in itself, so only the index can tell."""
    folder = toy_shards(tmp_path / "set", num_samples=2, samples_per_shard=1, num_eval=0).folder
    first, second = folder / "train-000000.tar", folder / "train-000001.tar"
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    found = "\n".join(defects(folder))
    assert "train-000000.tar, sample 000000001: index row: found none, wanted one" in found
    assert "train-000000.tar, sample 000000000 (toy/0): tar entries: found none" in found


def test_a_changed_index_is_found_by_its_digest(copied):
    flip(copied / "index" / "part-00000.parquet", -9)
    assert any("index/part-00000.parquet" in defect for defect in defects(copied))


def test_another_tokenizer_is_found_naming_both_fingerprints(copied, tmp_path):
    other = TextTokenizer.load(toy_tokenizer(tmp_path / "other", begin=None))
    other.save(copied / "tokenizer")
    (found,) = defects(copied)
    assert open_shards(copied).manifest["tokenizer"]["fingerprint"] in found
    assert other.fingerprint in found


def test_a_mask_shifted_by_one_is_found_as_text(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=1)
    shifted = replace(sample, supervised=np.roll(sample.supervised, -1))
    publish_samples(tmp_path / "set", [shifted], tokenizer=tokenizer)
    (found,) = defects(tmp_path / "set")
    assert "sample 000000000 (toy/0): supervised text of round 0: found '\\nThe square is " in found
    assert "wanted 'The square is red.</s>'" in found


def test_an_answer_that_is_not_supervised_is_found(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=2)
    last = np.flatnonzero(sample.supervised)[-4:]
    mask = sample.supervised.copy()
    mask[last] = False
    publish_samples(tmp_path / "set", [replace(sample, supervised=mask)], tokenizer=tokenizer)
    (found,) = defects(tmp_path / "set")
    assert "supervised text of round 1" in found


def test_an_answer_without_its_end_token_is_found(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=2)
    mask = sample.supervised & (sample.ids != tokenizer.end_id)
    publish_samples(tmp_path / "set", [replace(sample, supervised=mask)], tokenizer=tokenizer)
    found = defects(tmp_path / "set")
    assert [defect.partition(": ")[2].partition(":")[0] for defect in found] == [
        "supervised text of round 0",
        "supervised text of round 1",
    ]


def test_a_slot_without_image_is_found(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=1)
    ids = sample.ids.copy()
    ids[5] = tokenizer.image_id
    publish_samples(tmp_path / "set", [replace(sample, ids=ids)], tokenizer=tokenizer)
    assert defects(tmp_path / "set") == [
        "train-000000.tar, sample 000000000 (toy/0): number of <image> ids: found 2, wanted 1"
    ]


def test_an_id_beyond_the_vocabulary_is_found(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=1)
    ids = sample.ids.copy()
    ids[3] = tokenizer.num_ids
    publish_samples(tmp_path / "set", [replace(sample, ids=ids)], tokenizer=tokenizer)
    (found,) = defects(tmp_path / "set")
    assert found.endswith(f"wanted 0 to {tokenizer.num_ids - 1}")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": (7, 7)}, r"size of image 0: found (40, 32), wanted (7, 7)"),
        ({"data": b"not an image"}, "size of image 0: found cannot identify image file"),
    ],
)
def test_an_image_that_is_not_as_stated_is_found(tmp_path, tokenizer, change, message):
    sample = toy_sample(0, tokenizer, num_images=1)
    spoilt = replace(sample, images=(replace(toy_image(0), **change),))
    publish_samples(tmp_path / "set", [spoilt], tokenizer=tokenizer)
    (found,) = defects(tmp_path / "set")
    assert message in found


def test_a_long_text_is_shown_where_it_differs(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=1)
    answer = "red " * 100 + "end"
    rounds = (replace(sample.rounds[0], answer=answer),)
    publish_samples(tmp_path / "set", [replace(sample, rounds=rounds)], tokenizer=tokenizer)
    (found,) = defects(tmp_path / "set")
    assert len(found) < 400
    assert "\n" not in found


def test_an_image_that_no_reader_would_decode_is_found(tmp_path, tokenizer):
    strip = io.BytesIO()
    Image.new("RGB", (16_400, 2)).save(strip, "PNG")
    sample = toy_sample(0, tokenizer)
    image = replace(sample.images[0], data=strip.getvalue(), extension="png", size=(16_400, 2))
    publish_samples(
        tmp_path, [replace(sample, images=(image, *sample.images[1:]))], tokenizer=tokenizer
    )
    (found,) = [one for one in defects(tmp_path) if "size of image 0" in one]
    assert "image of 16400x2 pixels, at most 16384 a side" in found


def test_one_flipped_bit_anywhere_in_an_array_or_header_is_listed_and_the_rest_is_checked(copied):
    """Such a bit once ended the verification with a traceback; other defects were never seen."""
    good = (copied / "train-000000.tar").read_bytes()
    (copied / "eval-000000.tar").unlink()
    start = member_offset(copied, 0, "mask.npy")
    for place in (
        start,
        start + 6,
        start + 9,
        *range(start + 10, start + 80, 7),
        start - 512 + 130,
    ):
        for bit in (0, 3, 7):
            data = bytearray(good)
            data[place] ^= 1 << bit
            (copied / "train-000000.tar").write_bytes(data)
            found = defects(copied)
            assert any("sample 000000000 (toy/0): member mask.npy" in one for one in found)
            assert any(one.startswith("eval-000000.tar: file: found nothing") for one in found)
            assert all(one.isprintable() for one in found)
            assert not any("sample 000000001" in one for one in found)


def test_a_damaged_header_costs_its_member_and_no_other_sample(copied):
    path = copied / "train-000000.tar"
    flip(path, member_offset(copied, 1, "json") - 512 + 150)
    found = "\n".join(defects(copied))
    assert "train-000000.tar: tar: found a damaged header (" in found
    assert "sample 000000001 (toy2/1): member json: found None" in found
    assert "sample 000000002" not in found


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, b"x", b"L"])
def test_a_link_or_device_in_a_tar_is_one_defect_and_is_not_followed(copied, kind):
    path = copied / "train-000000.tar"
    start = member_offset(copied, 1, "json") - 512
    data = bytearray(path.read_bytes())
    entry = tarfile.TarInfo.frombuf(bytes(data[start : start + 512]), "utf-8", "strict")
    entry.type, entry.linkname = kind, "000000001.json"
    data[start : start + 512] = entry.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(data)
    found = "\n".join(defects(copied))
    assert "'000000001.json' of type" in found
    assert "wanted a regular file" in found
    assert "sample 000000002" not in found


def test_a_member_larger_than_its_index_row_is_not_held_in_memory(copied):
    """A header can declare any size; here it declares the rest of the shard."""
    path = copied / "train-000000.tar"
    start = member_offset(copied, 1, "json") - 512
    data = bytearray(path.read_bytes())
    entry = tarfile.TarInfo.frombuf(bytes(data[start : start + 512]), "utf-8", "strict")
    entry.size = len(data) - start - 512
    data[start : start + 512] = entry.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(data)
    found = "\n".join(defects(copied))
    assert f"member json: found {{'name': 'json', 'offset': {start + 512}, 'size': " in found
    assert "sample 000000001 (toy2/1): members: found sample: missing 'json'" in found


def test_a_merge_gone_from_the_tokenizer_is_found(copied):
    """The fingerprint's text does not need every merge, so it alone does not tell."""
    path = copied / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    merges, fingerprint = content["model"]["merges"], open_shards(copied).tokenizer().fingerprint
    hidden = 0
    for number in range(0, len(merges), 9):
        fewer = [*merges[:number], *merges[number + 1 :]]
        changed = json.dumps(content | {"model": content["model"] | {"merges": fewer}})
        path.write_text(changed)
        (copied / "tokenizer" / "fingerprint.json").unlink(missing_ok=True)
        try:
            if TextTokenizer.load(copied / "tokenizer").fingerprint != fingerprint:
                continue
        except ValueError:
            continue
        hidden += 1
        assert "tokenizer" in "\n".join(defects(copied))
    assert hidden


def test_text_that_is_not_what_the_ids_say_is_found_by_encoding_it_again(tmp_path, tokenizer):
    sample = toy_sample(0, tokenizer, num_images=1)
    rounds = (replace(sample.rounds[0], question="Is it red?"),)
    publish_samples(tmp_path / "set", [replace(sample, rounds=rounds)], tokenizer=tokenizer)
    (found,) = defects(tmp_path / "set")
    assert "sample 000000000 (toy/0): ids of the text, encoded again: found [" in found


def test_a_key_that_two_samples_have_is_found(tmp_path, tokenizer):
    samples = [toy_sample(0, tokenizer), toy_sample(1, tokenizer), toy_sample(0, tokenizer)]
    publish_samples(tmp_path / "set", samples, tokenizer=tokenizer)
    assert defects(tmp_path / "set") == ["index: key 'toy/0': found 2 times, wanted once"]


def test_what_cannot_be_opened_is_listed_and_the_rest_is_checked(copied):
    (copied / "tokenizer" / "tokenizer.json").write_text("{}")
    flip(copied / "index" / "part-00000.parquet", -9)
    flip(copied / "train-000001.tar", 700)
    found = defects(copied)
    for file in ("tokenizer: opening", "index: opening", "index/part-00000.parquet: sha256"):
        assert any(one.startswith(file) for one in found), file
    assert any(one.startswith("train-000001.tar: sha256: found") for one in found)


def test_in_a_set_of_version_2_a_merge_that_is_gone_is_found_by_encoding_again(copied):
    """Version 2 has no digests of the tokenizer's files, and the fingerprint stays the same."""
    edited = SetEditor(copied)
    del edited.manifest["tokenizer"]["files"]
    edited.manifest["format_version"] = 2
    edited.write_manifest()
    assert defects(copied) == []
    path = copied / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    merges, found = content["model"]["merges"], []
    for number in range(len(merges)):
        fewer = [*merges[:number], *merges[number + 1 :]]
        path.write_text(json.dumps(content | {"model": content["model"] | {"merges": fewer}}))
        try:
            open_shards(copied).tokenizer()
        except ValueError:
            continue
        found = defects(copied)
        if found:
            break
    assert any("ids of the text, encoded again: found [" in one for one in found)
