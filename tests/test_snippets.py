"""The Python in README runs as it stands, on a small shard set."""

import itertools
import re
from pathlib import Path

from vchat.shards import Loader
from vchat_testing.toy import toy_shards

README = Path(__file__).parents[1] / "README.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def test_the_loader_of_the_readme_delivers_what_it_says(tmp_path, monkeypatch):
    toy_shards(tmp_path / "mix-v1", num_samples=12, images_per_sample=lambda n: n % 3)
    monkeypatch.chdir(tmp_path)
    few = monkeypatch.setattr
    endless = Loader.__iter__
    # The loop of the snippet has no end; here it has two steps of this rank.
    few(Loader, "__iter__", lambda self: itertools.islice(endless(self), 2 * 4))
    found: dict[str, object] = {}
    (code,) = snippets()
    exec(compile(code, str(README), "exec"), found)
    batch, loader = found["batch"], found["loader"]
    assert batch.pixels.shape[1:] == (3, 224, 224)
    assert batch.token_ids.shape == batch.labels.shape == (4, 4096)
    assert batch.position_ids.shape == batch.segment_ids.shape == (4, 4096)
    assert loader.state_dict()["epoch"] == 2
