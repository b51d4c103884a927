"""Sets from a stranger: refused when opened, in one line that names place, found and wanted."""

import os

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from vchat.shards.commands.verify import command as verify
from vchat.shards.format import index as index_module
from vchat.shards.format.npy import encode_npy, parse_npy
from vchat.shards.format.open_shards import open_shards
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.store import ShardError
from vchat_testing.range_server import serve_folder
from vchat_testing.set_editor import SetEditor
from vchat_testing.toy_loading import first_epoch, toy_loader

HUGE = 10**30


def refused(call, *needles: str) -> str:
    """Check that a call ends in one printable line with these words; return it."""
    with pytest.raises((ValueError, OSError)) as error:
        call()
    line = str(error.value)
    assert line
    assert line.isprintable(), line
    for needle in needles:
        assert needle in line
    return line


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.tar",
        "/tmp/evil.tar",
        "evil.tar",
        "train-000000.tar/../x",
        "train-00000.tar",
        "eval-000000.tar",
        "train-000000.tar\n",
        "train-\u0660\u0660\u0660\u0660\u0660\u0660.tar",
        "",
        None,
        7,
        ["train-000000.tar"],
    ],
)
def test_a_shard_name_that_is_not_of_the_format_is_refused_when_opened(copied, name):
    edited = SetEditor(copied)
    edited.manifest["shards"][0]["name"] = name
    edited.write_manifest()
    refused(lambda: open_shards(copied), "manifest.json: shards[0].name is", "wanted train-")


@pytest.mark.parametrize("value", ["/home/user/thesis.txt", "A" * 64, "0" * 63, "../" * 22, None])
def test_a_digest_that_is_not_64_digits_is_refused_and_deletes_nothing(copied, tmp_path, value):
    """A cache names its files by digest: a path for a digest would be deleted there."""
    edited = SetEditor(copied)
    victim = tmp_path / "thesis.txt"
    victim.write_text("two years of work")
    stated = str(victim) if value and value.startswith("/") else value
    edited.manifest["shards"][0]["sha256"] = stated
    edited.write_manifest()
    refused(lambda: open_shards(copied), "shards[0].sha256 is", "wanted 64 hexadecimal digits")
    storage = StorageConfig(cache=tmp_path / "cache", retry_for_s=1)
    with serve_folder(copied) as served:
        refused(lambda: open_shards(served.url, storage=storage), "shards[0].sha256")
    assert victim.read_text() == "two years of work"


def set_in(document, path, value):
    *steps, last = path
    for step in steps:
        document = document[step]
    document[last] = value


@pytest.mark.parametrize(
    "path, value, place",
    [
        (("shards",), {}, "shards"),
        (("shards",), [], "shards"),
        (("shards", 0), "train-000000.tar", "shards[0]"),
        (("shards", 0, "bytes"), -1, "shards[0].bytes"),
        (("shards", 0, "bytes"), 1.5, "shards[0].bytes"),
        (("shards", 0, "bytes"), HUGE, "shards[0].bytes"),
        (("shards", 0, "samples"), True, "shards[0].samples"),
        (("shards", 0, "split"), "../x", "shards[0].split"),
        (("index",), None, "index"),
        (("index", 0, "name"), "../manifest.json", "index[0].name"),
        (("index", 0, "rows"), HUGE, "index[0].rows"),
        (("index", 0, "rows"), "9", "index[0].rows"),
        (("tokenizer", "num_ids"), HUGE, "tokenizer.num_ids"),
        (("tokenizer", "image_id"), -1, "tokenizer.image_id"),
        (("tokenizer", "end_id"), 10**6, "tokenizer.end_id"),
        (("tokenizer", "fingerprint"), 5, "tokenizer.fingerprint"),
        (("template",), "visualchat", "template"),
        (("template", "system"), 3, "template.system"),
        (("digests",), [], "digests"),
        (("digests", "index"), "", "digests.index"),
        (("totals", "samples"), "many", "totals.samples"),
        (("sources",), [1], "sources"),
        (("max_tokens",), "long", "max_tokens"),
        (("positions_per_image",), 0, "positions_per_image"),
        (("licences",), 3, "licences"),
        (("image",), {"size": [[]]}, "image.size"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_naming_its_place(copied, path, value, place):
    edited = SetEditor(copied)
    set_in(edited.manifest, path, value)
    edited.write_manifest()
    refused(lambda: open_shards(copied), f"manifest.json: {place} is ", "wanted ")


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested too deep"),
        (b'{"format_version": 2, "a": "\\ud83d"}', "surrogate"),
        (b'{"format_version": 2, "a": NaN}', "NaN"),
        (b'{"format_version": 2, "format_version": 1}', "twice"),
        (b'{"format_version": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"format_version": true}', "format_version True"),
        (b"\xff\xfe{}", "not JSON"),
        (b"", "not JSON"),
        (b"7", "format_version None"),
    ],
)
def test_a_manifest_that_is_odd_json_is_refused(copied, data, problem):
    (copied / "manifest.json").write_bytes(data)
    refused(lambda: open_shards(copied), "manifest.json", problem)


@pytest.mark.parametrize("file", ["manifest.json", "index/part-00000.parquet", "train-000000.tar"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "folder"])
def test_no_pipe_device_or_link_out_of_the_set_is_read(copied, tmp_path, file, kind):
    path = copied / file
    outside = tmp_path / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else outside)
    refused(lambda: open_shards(copied).read_sample(0), "wanted a plain file")


def test_a_link_to_another_file_of_the_set_is_read(copied):
    (copied / "train-000000.tar").rename(copied / "stored")
    (copied / "train-000000.tar").symlink_to("stored")
    assert open_shards(copied).read_sample(0).key == "toy/0"


@pytest.mark.parametrize(
    "row, changes, place",
    [
        (1, {"shard": 99}, "row 1: shard is 99, wanted 0 to 2"),
        (1, {"shard": -1}, "row 1: shard is -1"),
        (0, {"split": "eval"}, "row 0: split is 'eval', wanted 'train', that of its shard"),
        (2, {"text_tokens": -5}, "row 2: text_tokens is -5"),
        (2, {"text_tokens": 2**31 - 1}, "row 2: text_tokens is 2147483647"),
        (2, {"supervised_tokens": 2**30}, "row 2: supervised_tokens is"),
        (2, {"num_images": 2**30}, "row 2: num_images is"),
        (2, {"num_images": 1}, "row 2: length of image_sizes is 4, wanted 2"),
        (2, {"image_sizes": [40, 32, 40]}, "row 2: length of image_sizes is 3"),
        (2, {"image_sizes": [40, 32, 40, 0]}, "row 2: image_sizes is [40, 32, 40, 0]"),
        (2, {"image_sizes": [40, 32, 40, 2**30]}, "row 2: image_sizes is"),
        (2, {"image_keys": ["a"]}, "row 2: length of image_keys is 1"),
        (2, {"num_rounds": 0}, "row 2: num_rounds is 0"),
        (2, {"stem": "../../x"}, "row 2: stem is '../../x', wanted 9 digits"),
        (2, {"key": "k" * 5000}, "row 2: key is 'of 5000 bytes'"),
        (2, {"key": None}, "the column 'key' has nulls"),
        (2, {"members": None}, "the column 'members' has nulls"),
        (2, {"members": []}, "row 2: number of members is 0, wanted 5"),
    ],
)
def test_an_index_value_that_cannot_be_is_refused_naming_row_and_column(
    copied, row, changes, place
):
    edited = SetEditor(copied)
    edited.edit_row(row, **changes)
    edited.seal()
    refused(lambda: open_shards(copied).index(), "part-00000.parquet", place)


@pytest.mark.parametrize(
    "member, changes",
    [
        (0, {"size": 2**50}),
        (0, {"size": -1}),
        (0, {"size": 10}),
        (0, {"offset": 2**62}),
        (0, {"offset": -512}),
        (1, {"offset": 513}),
        (4, {"offset": 512}),
        (4, {"name": "0.jpg"}),
        (0, {"name": "7.jpg"}),
        (0, {"name": "../x.jpg"}),
        (0, {"name": "00.jpg"}),
        (0, {"name": "json"}),
        (0, {"name": "99999999999999999999.jpg"}),
    ],
)
def test_a_member_that_lies_where_none_can_is_refused(copied, member, changes):
    edited = SetEditor(copied)
    rows = edited.rows()
    rows[2]["members"][member] |= changes
    edited.write_rows(rows)
    edited.seal()
    refused(lambda: open_shards(copied).index(), "part-00000.parquet, row 2: member is")


def test_rows_out_of_the_order_of_shards_are_refused(copied):
    edited = SetEditor(copied)
    edited.write_rows(edited.rows()[::-1])
    edited.seal()
    refused(lambda: open_shards(copied).index(), "index, row 2: shard is 1 after 2")


def test_a_shard_with_another_number_of_rows_than_listed_is_refused(copied):
    edited = SetEditor(copied)
    edited.manifest["shards"][0]["samples"] -= 1
    edited.manifest["shards"][1]["samples"] += 1
    edited.seal()
    refused(lambda: open_shards(copied).index(), "5 rows of train-000000.tar, manifest.json says 4")


def test_an_index_that_unpacks_to_gigabytes_is_refused_before_it_is_read(copied, monkeypatch):
    """A string that repeats costs a Parquet file nothing; here the limit is small, as the test."""
    monkeypatch.setattr(index_module, "MAX_TEXT_BYTES", 10**6)
    edited = SetEditor(copied)
    table = open_shards(copied).index()
    keys = pa.array([["x" * 5000] * 300] * table.num_rows, pa.list_(pa.string()))
    column = table.schema.get_field_index("image_keys")
    edited.write_table(table.set_column(column, "image_keys", keys))
    edited.seal()
    assert edited.index_file.stat().st_size < 50_000
    refused(lambda: open_shards(copied).index(), "image_keys.list.element has 13500000 bytes")


def test_an_index_of_endless_lists_is_refused_before_it_is_read(copied):
    edited = SetEditor(copied)
    table = open_shards(copied).index()
    sizes = pa.array([[7] * 30_000] * table.num_rows, pa.list_(pa.int32()))
    column = table.schema.get_field_index("image_sizes")
    edited.write_table(table.set_column(column, "image_sizes", sizes))
    edited.seal()
    refused(lambda: open_shards(copied).index(), "image_sizes.list.element has 270000 values")


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1" * 3, b"PAR1\xff\xff\xff\x7fPAR1", b""])
def test_a_part_that_is_not_parquet_is_refused(copied, data):
    edited = SetEditor(copied)
    edited.index_file.write_bytes(data)
    edited.seal()
    refused(lambda: open_shards(copied).index(), "is not a Parquet file")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_the_loader_delivers_no_id_outside_the_vocabulary(copied, token):
    def change(stem, members):
        if stem == "000000001":
            ids = np.frombuffer(members["tokens.npy"][-80:], "<i4").copy()
            ids[3] = token
            members["tokens.npy"] = members["tokens.npy"][:-80] + ids.tobytes()
        return members

    edited = SetEditor(copied)
    edited.edit_samples(change)
    edited.seal()
    with pytest.raises(ShardError, match=r"ids are .*, manifest\.json says 0 to"):
        first_epoch(toy_loader(open_shards(copied)))


def test_a_mask_of_other_bytes_than_0_and_1_is_not_delivered(copied):
    def change(stem, members):
        mask = bytearray(members["mask.npy"])
        mask[-1] = 2
        return members | {"mask.npy": bytes(mask)}

    edited = SetEditor(copied)
    edited.edit_samples(change)
    edited.seal()
    with pytest.raises(ShardError, match="a mask with bytes other than 0 and 1"):
        first_epoch(toy_loader(open_shards(copied)))


def test_arrays_are_read_in_one_form_only(copied):
    good = encode_npy(np.arange(3), "<i4")
    assert parse_npy(good, "<i4").tolist() == [0, 1, 2]
    for place in range(len(good) - 12):
        for bit in range(8):
            spoilt = bytearray(good)
            spoilt[place] ^= 1 << bit
            try:
                found = parse_npy(bytes(spoilt), "<i4")
            except ValueError:
                continue
            assert found.tolist() == [0, 1, 2]
    for data in (good[:-1], good + b"\0", good[:40], b"", b"PK\x03\x04" + good, b"\x80\x04."):
        with pytest.raises(ValueError, match=r"npy|bytes"):
            parse_npy(data, "<i4")


@pytest.mark.parametrize("name", ["begin_id", "end_id", "image_id", "num_ids"])
def test_special_ids_that_are_not_the_tokenizers_are_refused(copied, name):
    edited = SetEditor(copied)
    edited.manifest["tokenizer"][name] += -1 if name == "image_id" else 1
    edited.seal()
    refused(lambda: open_shards(copied).tokenizer(), f"tokenizer.{name} is")


@pytest.mark.parametrize("name", ["max_tokens", "positions_per_image"])
def test_a_limit_that_is_not_stated_is_asked_for(copied, name):
    edited = SetEditor(copied)
    del edited.manifest[name]
    edited.seal()
    flag = f"give it with --{name.replace('_', '-')}"
    refused(lambda: open_shards(copied).limit(name), f"states no {name}", flag)


@pytest.mark.parametrize("token", [-1, 10**6, None])
def test_a_sample_with_ids_that_cannot_be_is_not_read(copied, token):
    """None stands for the image id: a slot without an image."""
    image_id = open_shards(copied).manifest["tokenizer"]["image_id"]

    def change(stem, members):
        ids = np.frombuffer(members["tokens.npy"][-80:], "<i4").copy()
        ids[3] = image_id if token is None else token
        return members | {"tokens.npy": members["tokens.npy"][:-80] + ids.tobytes()}

    edited = SetEditor(copied)
    edited.edit_samples(change)
    edited.seal()
    wanted = "image slots for" if token is None else "wanted 0 to"
    refused(lambda: open_shards(copied).read_sample(0), "train-000000.tar, 000000000", wanted)


def test_a_sample_that_is_not_its_index_rows_is_not_read(copied):
    edited = SetEditor(copied)
    edited.edit_row(1, key="another")
    edited.seal()
    refused(lambda: open_shards(copied).read_sample(1), "key is 'toy2/1', the index says 'another'")


def test_verify_lists_every_defect_of_a_manifest(copied):
    edited = SetEditor(copied)
    edited.manifest["shards"][0]["sha256"] = "x"
    edited.manifest["tokenizer"]["num_ids"] = -1
    edited.manifest["totals"]["samples"] = "many"
    edited.write_manifest()
    done = CliRunner().invoke(verify, [str(copied)], standalone_mode=False)
    assert done.return_value == 1
    *defects, summary = done.output.splitlines()
    assert len(defects) == 3
    for defect, place in zip(
        defects, ("num_ids", "totals.samples", "shards[0].sha256"), strict=True
    ):
        assert "manifest.json: " in defect
        assert place in defect
    assert "3 defects of the manifest" in summary
