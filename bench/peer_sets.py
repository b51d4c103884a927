"""Write the samples of our shards as a peer stores them: `python peer_sets.py PEER DATA`.

Run by `bench/loader.py` in the peer's own environment. Ids and encoded images go in as they are.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def read_stored(data: Path) -> Iterator[dict[str, Any]]:
    """Yield ids, and images end to end with their sizes, of every sample in the tars."""
    for path in sorted((data / "set").glob("*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                stem, _, name = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(stem, {})[name] = file.read()
        for members in samples.values():
            images = [members[name] for name in sorted(members) if name.endswith("jpg")]
            sizes = np.array([len(image) for image in images], np.int32)
            ids = np.load(io.BytesIO(members["tokens.npy"]))
            yield {"ids": ids.tobytes(), "sizes": sizes.tobytes(), "images": b"".join(images)}


def write_mosaicml(data: Path) -> None:
    """Write MDS shards."""
    from streaming import MDSWriter

    columns = {"ids": "bytes", "sizes": "bytes", "images": "bytes"}
    with MDSWriter(out=str(data / "mosaicml"), columns=columns, size_limit=1 << 24) as writer:
        for sample in read_stored(data):
            writer.write(sample)


def write_litdata(data: Path) -> None:
    """Write litdata chunks."""
    from litdata.streaming.cache import Cache

    cache = Cache(str(data / "litdata"), chunk_bytes=1 << 24)
    for number, sample in enumerate(read_stored(data)):
        cache[number] = sample
    cache.done()
    cache.merge()


def write_energon(data: Path) -> None:
    """Prepare a copy of our tars, read as dictionaries."""
    import shutil

    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    folder = data / "energon"
    folder.mkdir()
    for path in (data / "set").glob("*.tar"):
        shutil.copy(path, folder)
    names = sorted(path.name for path in folder.glob("*.tar"))
    WebdatasetPreparator.prepare_dataset(folder, names, split_parts_ratio=[("train", 1.0)])
    (folder / ".nv-meta" / "dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    )


if __name__ == "__main__":
    written = {"mosaicml": write_mosaicml, "litdata": write_litdata, "energon": write_energon}
    written[sys.argv[1]](Path(sys.argv[2]))
