"""Edit a shard set as a stranger would: all digests are right afterwards, only the content is odd.

edited = SetEditor(folder)
edited.manifest["shards"][0]["name"] = "../evil.tar"
edited.seal()
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from vchat.shards.format.manifest import index_digest, manifest_digest

Members = dict[str, bytes]


class SetEditor:
    """A shard set that is being changed in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())

    @property
    def index_file(self) -> Path:
        """The first part of the index."""
        return self.folder / "index" / "part-00000.parquet"

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the index."""
        rows: list[dict[str, Any]] = pq.read_table(self.index_file).to_pylist()
        return rows

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Replace the rows of the index."""
        schema = pq.read_schema(self.index_file)
        self.write_table(pa.Table.from_pylist(rows, schema=schema))

    def write_table(self, table: pa.Table) -> None:
        """Replace the index, whatever its columns."""
        pq.write_table(table, self.index_file)
        self.manifest["index"][0]["rows"] = table.num_rows

    def edit_row(self, number: int, **changes: Any) -> None:
        """Change values of one row of the index."""
        rows = self.rows()
        rows[number] |= changes
        self.write_rows(rows)

    def edit_samples(self, change: Callable[[str, Members], Members], *, shard: int = 0) -> None:
        """Rewrite the members of each sample of a shard; the index follows."""
        path = self.folder / self.manifest["shards"][shard]["name"]
        samples: dict[str, Members] = {}
        with tarfile.open(path) as tar:
            for entry in tar:
                stem, _, member = entry.name.partition(".")
                body = tar.extractfile(entry)
                assert body is not None
                samples.setdefault(stem, {})[member] = body.read()
        changed = {stem: change(stem, dict(members)) for stem, members in samples.items()}
        data, located = write_tar(changed)
        path.write_bytes(data)
        rows = self.rows()
        for row in rows:
            if row["shard"] == shard:
                row["members"] = located[row["stem"]]
        self.write_rows(rows)

    def seal(self) -> Path:
        """Write a manifest whose digests are those of the files; return the folder."""
        for shard in self.manifest["shards"]:
            path = self.folder / shard["name"]
            if path.is_file():
                data = path.read_bytes()
                shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for part in self.manifest["index"]:
            path = self.folder / "index" / part["name"]
            if path.is_file():
                part["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.manifest["digests"]["index"] = index_digest(self.manifest["index"])
        files = self.manifest["tokenizer"].get("files", {})
        for name in files:
            data = (self.folder / "tokenizer" / name).read_bytes()
            files[name] = hashlib.sha256(data).hexdigest()
        return self.write_manifest()

    def write_manifest(self) -> Path:
        """Write the manifest as it is, with its own digest; return the folder."""
        self.manifest["sha256"] = manifest_digest(self.manifest)
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))
        return self.folder


def write_tar(samples: dict[str, Members]) -> tuple[bytes, dict[str, list[dict[str, Any]]]]:
    """Return a tar of samples, and where the members of each lie, as an index says it."""
    file, located = io.BytesIO(), dict[str, list[dict[str, Any]]]()
    for stem, members in samples.items():
        located[stem] = []
        for name, data in sorted(members.items()):
            entry = tarfile.TarInfo(f"{stem}.{name}")
            entry.size, entry.mode = len(data), 0o444
            file.write(entry.tobuf(tarfile.USTAR_FORMAT))
            place = {"name": name, "offset": file.tell(), "size": len(data)}
            located[stem].append(place | {"xxh3": xxhash.xxh3_64_intdigest(data)})
            file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return file.getvalue(), located
