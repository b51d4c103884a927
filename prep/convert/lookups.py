"""What a conversion found where it looked for pictures: a later build checks that it holds still.

In: the references that records give. Out: a Parquet file beside the staged records, one row per
path that was looked up, with a number for what was there (`ImageFiles.state_of`). Records that were
staged before a missing picture was added, or a picture was replaced, are not used again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from vchat.base.files import write_atomically
from vchat.prep.raw.image_files import FOUND_OVER_HTTP, ImageFiles
from vchat.shards.format.record import ImageRef

_ROWS_AT_ONCE = 2**16
_SCHEMA = pa.schema([("file", pa.string()), ("is_inside", pa.bool_()), ("state", pa.uint64())])
"""`is_inside` tells a container of pictures (a Parquet file, a JSON file) from a picture."""


class Lookups:
    """Notes every path once, before its picture is read."""

    def __init__(self, images: ImageFiles, writer: pq.ParquetWriter):
        """Note what `images` finds, in the file of `writer`."""
        self._images, self._writer = images, writer
        self._seen: set[bytes] = set()
        self._rows: list[tuple[str, bool, int]] = []

    def note(self, refs: Sequence[ImageRef]) -> None:
        """Note what is found for references that are not located yet."""
        for ref in refs:
            digest = xxhash.xxh3_128_digest(ref.file.encode(errors="surrogatepass"))
            if digest in self._seen:
                continue
            self._seen.add(digest)
            is_inside = bool(ref.member) or ref.offset >= 0
            self._rows.append((_safe_name(ref.file), is_inside, self._images.state_of(ref)))
            if len(self._rows) >= _ROWS_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Write what is noted."""
        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[], [], []]
        self._writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._rows = []


def _safe_name(file: str) -> str:
    """Return a name that Parquet can hold; one that is no Unicode names no file ever."""
    return file.encode(errors="replace").decode()


@contextlib.contextmanager
def open_lookups(path: Path, images: ImageFiles) -> Iterator[Lookups]:
    """Yield lookups that are written to `path`, whole, at the end of the block."""
    with write_atomically(path) as file, pq.ParquetWriter(file, _SCHEMA) as writer:
        lookups = Lookups(images, writer)
        yield lookups
        lookups.flush()


def hold_still(path: Path, images: ImageFiles) -> bool:
    """Tell whether `images` finds what the lookups in `path` say.

    It costs some microseconds per local picture. What an HTTP server had is taken as still there.
    """
    if not path.exists():
        return False
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                if row["state"] == FOUND_OVER_HTTP:
                    continue
                offset = 0 if row["is_inside"] else -1
                ref = ImageRef(key="", file=row["file"], offset=offset)
                if images.state_of(ref) != row["state"]:
                    return False
    return True
