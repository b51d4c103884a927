"""Write one shard: samples in, a tar file and its index rows out.

Tar headers have fixed times and owners, so equal samples give equal bytes. They are those of
webdataset's `TarWriter`, which is not used because it imports torch: 480 MB in every process of a
build.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from vchat.base.files import write_atomically
from vchat.shards.format.index import ROW_SCHEMA, index_row, locate_members, pad_to_block
from vchat.shards.format.sample import Sample, encode_sample


def write_shard(path: Path, samples: Iterable[Sample], *, first_number: int) -> pa.Table:
    """Write one shard whole and return its index rows (`ROW_SCHEMA`), in tar order.

    `path` appears when every sample is written. Memory: one sample.

    Args:
        path: The tar file; replaced if it exists.
        samples: In the order in which they are stored.
        first_number: Number of the first sample within the set; stems count on from it.
    """
    with write_atomically(path) as file:
        rows = _write_samples(file, samples, first_number)
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)


def _write_samples(
    file: IO[bytes], samples: Iterable[Sample], first_number: int
) -> list[dict[str, Any]]:
    """Write the tar into an open file; return the index rows as dictionaries."""
    rows, start = [], 0
    for number, sample in enumerate(samples, start=first_number):
        stem = f"{number:09d}"
        found = encode_sample(sample)
        located = locate_members(found, start=start)
        for name, data in found:
            file.write(member_header(f"{stem}.{name}", len(data)) + data)
            file.write(bytes(pad_to_block(len(data)) - len(data)))
        start = located[-1]["offset"] + pad_to_block(located[-1]["size"])
        assert file.tell() == start, f"{stem}: the tar layout is not the one indexed"
        rows.append(index_row(sample, stem=stem, located=located))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return rows


def member_header(name: str, size: int) -> bytes:
    """Return the header block of a member.

    It is that of `tarfile` with another name, size and checksum; making it by `tarfile` would cost
    a tenth of the time to decode the image.
    """
    block = bytearray(_BLANK_HEADER)
    name_bytes, size_digits = name.encode("ascii"), b"%011o" % size
    block[: len(name)] = name_bytes
    block[124:135] = size_digits
    block[148:156] = b"%06o\0 " % (_BLANK_SUM + sum(name_bytes) + sum(size_digits))
    return bytes(block)


def _blank_header() -> bytes:
    """Return the header block of a member, without name, size and checksum."""
    info = tarfile.TarInfo("")
    info.mode, info.mtime = 0o444, 0
    info.uname = info.gname = "vchat"
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:135] = bytes(11)
    block[148:156] = bytes(8)
    return bytes(block)


_BLANK_HEADER = _blank_header()
_BLANK_SUM = sum(_BLANK_HEADER) + 8 * ord(" ")
"""The checksum field counts as blanks in the checksum."""
