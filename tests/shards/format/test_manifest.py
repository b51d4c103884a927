"""A manifest: of a known version, whole, and as it was written, or refused."""

import json

import pytest

from vchat.shards.format.manifest import manifest_digest
from vchat.shards.format.open_shards import open_shards


def rewrite(folder, change) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content["sha256"] = manifest_digest(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format_version=4), "format_version 4; wanted 1 or 2 or 3"),
        (lambda m: m.pop("format_version"), "format_version None; wanted 1"),
        (lambda m: [m.pop("shards"), m.pop("totals")], "lacks totals, shards"),
    ],
)
def test_a_manifest_of_another_form_is_refused(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(ValueError, match=message):
        open_shards(copied)


def test_a_manifest_of_version_1_has_no_digest_and_is_read(copied):
    rewrite(copied, lambda m: m.update(format_version=1))
    path = copied / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert open_shards(copied).index().num_rows == 9


def test_a_manifest_with_one_changed_value_is_refused(copied):
    path = copied / "manifest.json"
    path.write_text(
        path.read_text().replace('"licences": {\n  "toy": "none"', '"licences": {\n  "toy": "nine"')
    )
    with pytest.raises(ValueError, match=r"manifest\.json was changed: its sha256 is"):
        open_shards(copied)


def test_a_manifest_that_is_not_json_is_refused(copied):
    (copied / "manifest.json").write_text('{"format_version": 1,')
    with pytest.raises(ValueError, match=r"manifest\.json is not JSON"):
        open_shards(copied)
