"""The members of a tar, one header after the other, whatever its bytes are.

In memory is one header block. A header that is damaged is one problem; the walk goes on at the next
place where the index says that a header stands. Nothing is followed: a link is a problem.
"""

from __future__ import annotations

import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class TarMember:
    """A regular file in a tar."""

    name: str
    offset: int
    """Of its data."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TarProblem:
    """Something in a tar that is no member of a sample."""

    offset: int
    found: str
    wanted: str
    is_cut: bool = False
    """Whether the file ends here; nothing comes after it."""

    name: str = ""
    """Of the member that is cut, if its header is whole."""


def walk_tar(
    file: IO[bytes], *, num_bytes: int, headers: Sequence[int]
) -> Iterator[TarMember | TarProblem]:
    """Yield members and problems in order.

    Args:
        file: Open for reading, and to seek in.
        num_bytes: Its size.
        headers: Where the index says that headers stand, ascending; there a walk goes on after a
            damaged one.
    """
    start: int | None = 0
    while start is not None:
        found, next_start = _read_header(file, start, num_bytes=num_bytes)
        if found is None:  # the zero block that ends a tar
            missed = _next_header(headers, start)
            if missed is None:
                return
            wanted = f"members up to byte {headers[-1]}"
            found, next_start = TarProblem(offset=start, found="its end", wanted=wanted), missed
        yield found
        if isinstance(found, TarProblem):
            next_start = None if found.is_cut else _next_header(headers, start)
        start = next_start


def _next_header(headers: Sequence[int], after: int) -> int | None:
    number = bisect_right(headers, after)
    return headers[number] if number < len(headers) else None


def _read_header(
    file: IO[bytes], start: int, *, num_bytes: int
) -> tuple[TarMember | TarProblem | None, int | None]:
    """Return what stands at a byte, None for the end of the tar, and where the next header is."""
    if start + BLOCK > num_bytes:
        return _cut(start), None
    file.seek(start)
    block = file.read(BLOCK)
    if not any(block):
        return None, None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        wanted = "the header of a member"
        return TarProblem(offset=start, found=f"a damaged header ({error})", wanted=wanted), None
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        found = f"{header.name!a} of type {header.type.decode('latin-1')!a}"
        return TarProblem(offset=start, found=found, wanted="a regular file"), None
    end = start + BLOCK + header.size
    if header.size < 0 or end > num_bytes:
        return _cut(start, name=header.name), None
    member = TarMember(name=header.name, offset=start + BLOCK, size=header.size)
    return member, start + BLOCK + -(-header.size // BLOCK) * BLOCK


def _cut(start: int, *, name: str = "") -> TarProblem:
    found = "unexpected end of data"
    return TarProblem(offset=start, found=found, wanted="a whole tar file", is_cut=True, name=name)
