"""Images inside a `.zip` or `.tar`, read in place: nothing is unpacked to disk.

A process indexes an archive once (a zip by its directory, a tar by its headers) and then reads
members by byte offset. Member names serve as look-up keys only, never as paths, so a hostile name
cannot leave the archive.
"""

from __future__ import annotations

import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from vchat.prep.raw.data_path import DataPath, RemotePath, read_range
from vchat.prep.raw.rejected import Rejected
from vchat.shards.pixels.limits import MAX_BYTES

SUFFIXES = (".zip", ".tar")
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Local header of a zip member; its last two numbers are the lengths of name and extra field."""

LONGEST_EXTRA = 128
"""Bytes of a local header's extra field that are read along with a member."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of a member are in its archive."""

    offset: int
    """Byte offset in the archive: of the data in a tar, of the local header in a zip."""

    stored_bytes: int
    num_bytes: int
    """Size when uncompressed."""

    method: int | None
    """Compression of a zip member: 0 stored, 8 deflated. None in a tar."""


_INDEX_LOCK = threading.Lock()
"""Held while an archive is indexed, so that only one of several threads does it."""


def members_of(path: DataPath) -> Mapping[str, Member]:
    """Return the files of an archive by name; an archive that is written again is read again.

    Raises:
        ValueError: If the archive is damaged; the message names it.
    """
    changed_ns = 0 if isinstance(path, RemotePath) else path.stat().st_mtime_ns
    with _INDEX_LOCK:
        return _members_of(path, changed_ns)


@lru_cache(maxsize=64)
def _members_of(path: DataPath, changed_ns: int) -> Mapping[str, Member]:
    try:
        return _zip_members(path) if path.suffix == ".zip" else _tar_members(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as err:
        raise ValueError(f"{path}: damaged archive: {err}") from err


def _zip_members(path: DataPath) -> dict[str, Member]:
    with path.open("rb", buffering=0) as file, zipfile.ZipFile(file) as archive:
        return {
            info.filename: Member(
                info.header_offset, info.compress_size, info.file_size, info.compress_type
            )
            for info in archive.infolist()
            if not info.is_dir() and not info.flag_bits & 1
        }


def _tar_members(path: DataPath) -> dict[str, Member]:
    with path.open("rb", buffering=0) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        return {
            info.name.removeprefix("./"): Member(info.offset_data, info.size, info.size, None)
            for info in archive
            if info.isreg()
        }


def read_member(path: DataPath, name: str) -> bytes:
    """Return the bytes of one member.

    Raises:
        Rejected: `missing_image`, `huge_image`, or `undecodable_image` if it cannot be unpacked.
    """
    member = members_of(path).get(name)
    if member is None:
        raise Rejected("missing_image", f"{name} is not in {path.name}")
    if max(member.num_bytes, member.stored_bytes) > MAX_BYTES:
        raise Rejected("huge_image", f"{name} in {path.name}: {member.num_bytes} bytes")
    if member.method is None:
        return read_range(path, member.offset, member.stored_bytes)
    data = _zip_data(path, name, member)
    return data if not member.method else _inflate(data, member, name=f"{name} in {path.name}")


def _zip_data(path: DataPath, name: str, member: Member) -> bytes:
    """Return the stored bytes of a zip member, which follow its local header; mostly one read."""
    expected = _LOCAL_HEADER.size + len(name.encode()) + LONGEST_EXTRA
    data = read_range(path, member.offset, expected + member.stored_bytes)
    if len(data) < _LOCAL_HEADER.size:
        raise Rejected("undecodable_image", f"{name} in {path.name} is cut off")
    *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
    start = _LOCAL_HEADER.size + name_length + extra_length
    if start > expected:
        return read_range(path, member.offset + start, member.stored_bytes)
    return data[start : start + member.stored_bytes]


def _inflate(data: bytes, member: Member, *, name: str) -> bytes:
    """Decompress a deflated member, to its declared size at most."""
    if member.method != zipfile.ZIP_DEFLATED:
        raise Rejected("undecodable_image", f"{name}: packed by method {member.method}")
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(1, member.num_bytes))
    except zlib.error as err:
        raise Rejected("undecodable_image", f"{name}: {err}") from err


def archive_of(folder: DataPath) -> DataPath | None:
    """Return the archive that replaces a folder (`train2017.zip` beside it), or None."""
    if isinstance(folder, RemotePath):
        return _remote_archive_of(folder)
    paths = (folder.with_name(folder.name + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


@lru_cache(maxsize=4096)
def _remote_archive_of(folder: RemotePath) -> RemotePath | None:
    paths = (folder.with_name(folder.name + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def member_name(archive: DataPath, inside: str) -> str | None:
    """Return the member name of a file whose path in the replaced folder is `inside`, or None.

    Archives are packed with or without the folder's own name in front.
    """
    names = members_of(archive)
    return next((name for name in (f"{archive.stem}/{inside}", inside) if name in names), None)


def file_names(folder: DataPath) -> list[str]:
    """Return the names of the files directly in a folder, or in the archive that replaces it.

    They are sorted; there are none if neither exists.
    """
    archive = archive_of(folder)
    can_list = not isinstance(folder, RemotePath) or folder.can_list
    if archive is None or (can_list and folder.is_dir()):
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = (name.removeprefix(f"{archive.stem}/") for name in members_of(archive))
    return sorted(name for name in names if "/" not in name)
