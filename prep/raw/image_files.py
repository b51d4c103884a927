"""Reads the image that a reference names: its bytes or its header, below the data folders.

An image is a file, a member of an archive that replaces a folder (`train2017.zip`), a base64 text
in a JSON file, or a cell of a Parquet file. A picture in object storage takes one request;
`prefetch` starts it early.

A path in an annotation is not trusted: it may not be absolute, climb with `..`, or follow a
symbolic link out of its folder. A link directly below the data folder, or in place of an image
folder that a source names, is the user's own (data sets are often linked there) and is followed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from vchat.prep.raw.archives import archive_of, member_name, members_of, read_member
from vchat.prep.raw.base64_json import decode_head, decode_value
from vchat.prep.raw.data_path import DataPath, RemotePath, path_below, read_range
from vchat.prep.raw.parquet_cells import read_cell
from vchat.prep.raw.rejected import Rejected, reject_bad_pictures
from vchat.shards.format.record import ImageRef
from vchat.shards.pixels.header import ImageHeader, read_header, sniff_format
from vchat.shards.pixels.limits import MAX_BYTES, PictureError
from vchat.shards.storage.remote import RemoteStore

_UNSAFE = re.compile("[\0\ud800-\udfff]")
"""Characters that no file name can hold."""

PREFETCH_DEPTH = 16
"""Dialogues whose images are read in advance from object storage: some MB."""

_HEAD_CHARACTERS = 8 * 2**10
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR)


class ImageFiles:
    """Reads images below one or more folders; the first folder that has a path wins."""

    def __init__(self, roots: Sequence[DataPath], *, folders: Sequence[str] = ()):
        """Search below `roots` in order; `folders` below them are named by a source, so trusted."""
        self._roots = tuple(
            Path(os.path.realpath(root)) if isinstance(root, Path) else root for root in roots
        )
        self._folders = tuple(folder.rstrip("/") + "/" for folder in folders)
        self.header = lru_cache(maxsize=65536)(self._header)
        """Returns the checked `ImageHeader` of a reference or raises `Rejected`; cached."""

        self._find = lru_cache(maxsize=256)(self._find_file)

        self.prefetch_depth = 0
        """How many dialogues or records in advance to prefetch; 0 if all folders are local."""

        self._pending: dict[ImageRef, Future[bytes]] = {}
        if any(isinstance(root, RemotePath) for root in self._roots):
            self.prefetch_depth = PREFETCH_DEPTH
            self._threads = ThreadPoolExecutor(RemoteStore.num_readers)

    def prefetch(self, refs: Sequence[ImageRef]) -> None:
        """Start to read images in object storage, for `read` to return; no effect on local ones."""
        for ref in refs if self.prefetch_depth else ():
            if ref not in self._pending:
                self._pending[ref] = self._threads.submit(self._read, ref)

    def cancel_prefetch(self, refs: Sequence[ImageRef]) -> None:
        """Cancel the prefetched images that were not read."""
        for ref in refs:
            if (future := self._pending.pop(ref, None)) is not None:
                future.cancel()

    def prefetch_headers(self, refs: Sequence[ImageRef]) -> None:
        """Start to read headers in object storage, for `header` to return."""
        for ref in refs if self.prefetch_depth else ():
            self._threads.submit(self._locate_header, ref)

    def _locate_header(self, ref: ImageRef) -> ImageHeader:
        return self.header(self.locate(ref))

    def locate(self, ref: ImageRef) -> ImageRef:
        """Return the reference, changed to an archive member where an archive replaces its folder.

        Raises:
            Rejected: `missing_image` or `unsafe_path`.
        """
        if ref.member or ref.offset >= 0:
            return ref
        try:
            self.find(ref)
        except Rejected as rejected:
            member = self._find_in_archive(ref) if rejected.reason == "missing_image" else None
            if member is None:
                raise
            return member
        return ref

    def _find_in_archive(self, ref: ImageRef) -> ImageRef | None:
        for root in self._roots:
            for folder in list(PurePosixPath(ref.file).parents)[:-1]:
                archive = archive_of(root / folder)
                inside = PurePosixPath(ref.file).relative_to(folder)
                name = member_name(archive, str(inside)) if archive is not None else None
                if archive is not None and name is not None:
                    return member_ref(ref, archive, name, root=root)
        return None

    def _header(self, ref: ImageRef) -> ImageHeader:
        with reject_bad_pictures():
            return self._read_header(ref)

    def _read_header(self, ref: ImageRef) -> ImageHeader:
        if ref.offset >= 0 and not ref.member and (header := self._base64_header(ref)) is not None:
            return header
        if ref.member or ref.offset >= 0:
            data = self.read(ref)
            return read_header(io.BytesIO(data), num_bytes=len(data), name=ref.key)
        with self.find(ref).open("rb") as file:
            num_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            return read_header(file, num_bytes=num_bytes, name=ref.file)

    def _base64_header(self, ref: ImageRef) -> ImageHeader | None:
        """Return the header from the first bytes of a base64 value, or None if they are too few.

        Whether the rest is valid base64 shows when the picture is decoded.
        """
        size = min(ref.size_bytes, _HEAD_CHARACTERS)
        head = decode_head(read_range(self.find(ref), ref.offset, size))
        if sniff_format(head) is None:
            return None
        try:
            return read_header(io.BytesIO(head), num_bytes=ref.size_bytes * 3 // 4, name=ref.key)
        except PictureError as error:
            if error.reason == "undecodable_image":
                return None
            raise

    def read(self, ref: ImageRef) -> bytes:
        """Return the bytes of an image, prefetched or not; raises as `_read`."""
        future = self._pending.pop(ref, None)
        return self._read(ref) if future is None else future.result()

    def _read(self, ref: ImageRef) -> bytes:
        """Return the bytes of an image.

        Raises:
            Rejected: `missing_image`, `unsafe_path`, or `huge_image` above the limit on bytes.
        """
        path = self.find(ref)
        if ref.member and ref.offset < 0:
            read = read_cell if path.suffix == ".parquet" else read_member
            return read(path, ref.member)
        if ref.offset >= 0:
            return _value_at(path, ref)
        data = read_range(path, 0, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Rejected("huge_image", f"{ref.file}: more than {MAX_BYTES} bytes")
        return data

    def find(self, ref: ImageRef) -> DataPath:
        """Return the path of the existing file that a reference names.

        Raises:
            Rejected: `missing_image` or `unsafe_path`.
        """
        return self._find(ref.file)

    def _find_file(self, file: str) -> DataPath:
        check_path(file)
        for root in self._roots:
            if isinstance(root, RemotePath):
                if (remote := root / file).is_file():
                    return remote
            elif _is_file(path := f"{root}/{file}"):
                if not _lies_in(path, f"{root}/{self._trusted_folder(file)}"):
                    raise Rejected("unsafe_path", f"{file!r} leads out of its folder")
                return Path(path)
        raise Rejected("missing_image", f"{file} is not there")

    def _trusted_folder(self, path: str) -> str:
        """Return the trusted part of a path: a folder that the source names, or the first one."""
        for folder in self._folders:
            if path.startswith(folder):
                return folder
        return path.split("/", 1)[0] if "/" in path else ""


def member_ref(ref: ImageRef, archive: DataPath, name: str, *, root: DataPath) -> ImageRef:
    """Return a reference to an archive member.

    Of a tar, whose index takes a pass over the whole file, it holds offset and size too.
    """
    member, file = members_of(archive)[name], path_below(archive, root)
    if member.method is None:
        return replace(
            ref, file=file, member=name, offset=member.offset, size_bytes=member.stored_bytes
        )
    return replace(ref, file=file, member=name)


def _value_at(path: DataPath, ref: ImageRef) -> bytes:
    """Return the picture at the reference's offset: a tar member, or base64 text in JSON."""
    if ref.size_bytes > (MAX_BYTES if ref.member else 2 * MAX_BYTES):
        raise Rejected("huge_image", f"{ref.key}: {ref.size_bytes} bytes in {ref.file}")
    data = read_range(path, ref.offset, ref.size_bytes)
    return data if ref.member else decode_value(data, name=ref.key)


def check_path(path: str) -> None:
    """Check that a path from an annotation is relative and does not leave its folder by `..`.

    Raises:
        Rejected: `unsafe_path`.
    """
    parts = set(path.split("/")) - {"", "."}
    if not parts or path.startswith(("/", "\\")) or ".." in parts or _UNSAFE.search(path):
        raise Rejected("unsafe_path", f"{path[:80]!r} is not a path below the data folder")


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 (once per image: a str is faster)
    except OSError as err:
        if err.errno in _ABSENT:
            return False
        raise


def _lies_in(path: str, folder: str) -> bool:
    """Tell whether a file lies below a folder, with the symbolic links of both resolved."""
    inside, holder = _real_path(folder), _real_path(os.path.dirname(path))  # noqa: PTH120
    if os.path.islink(path):  # noqa: PTH114
        holder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    return holder == inside or holder.startswith(inside + os.sep)


@lru_cache(maxsize=4096)
def _real_path(folder: str) -> str:
    return os.path.realpath(folder)
