"""Reads the image that a reference names: its bytes or its header, below the data folders.

An image is a file, a member of an archive that replaces a folder (`train2017.zip`), a base64 text
in a JSON file, or a cell of a Parquet file. A picture in object storage takes one request;
`prefetch` starts it early.

A path in an annotation is not trusted: it may not be absolute, climb with `..`, or follow a
symbolic link out of its folder. A link directly below the data folder, or in place of an image
folder that a source names, is the user's own (data sets are often linked there) and is followed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import xxhash

from vchat.prep.raw.archives import SUFFIXES, archive_of, member_name, members_of, read_member
from vchat.prep.raw.base64_json import decode_head, decode_value
from vchat.prep.raw.data_path import DataPath, RemotePath, path_below, read_range
from vchat.prep.raw.identity import Identity, digest_of, digest_of_file, normal_path
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

FOUND_OVER_HTTP = 1
"""The state of every picture that an HTTP server has."""

_HEAD_CHARACTERS = 8 * 2**10
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedImage:
    """What a conversion knows of an image."""

    header: ImageHeader
    digest: str
    """Of its bytes (`identity.digest_of`); empty if they were not read."""


class ImageFiles:
    """Reads images below one or more folders; the first folder that has a path wins."""

    def __init__(
        self,
        roots: Sequence[DataPath],
        *,
        folders: Sequence[str] = (),
        identity: Identity | None = None,
    ):
        """Search below `roots` in order; `folders` below them are named by a source, so trusted.

        Args:
            identity: Whether `examine` reads the bytes of a picture or leaves it to its path; None
                for the bytes of local files and the paths of files in object storage. Bytes of
                Parquet cells are always read, and those of base64 texts without canonical keys.
        """
        self._roots = tuple(
            Path(os.path.realpath(root)) if isinstance(root, Path) else root for root in roots
        )
        self._root_names = [str(root).rstrip("/") for root in self._roots]
        self._folders = tuple(folder.rstrip("/") + "/" for folder in folders)
        self.identity = identity
        self.examine = lru_cache(maxsize=65536)(self._examine)
        """Returns the `ExaminedImage` of a reference, its header checked, or raises `Rejected`."""

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
            self._threads.submit(self._locate_and_examine, ref)

    def _locate_and_examine(self, ref: ImageRef) -> ExaminedImage:
        return self.examine(self.locate(ref))

    def locate(self, ref: ImageRef) -> ImageRef:
        """Return the reference with its normal path, to a member if an archive replaces its folder.

        Raises:
            Rejected: `missing_image` or `unsafe_path`.
        """
        if ref.member or ref.offset >= 0:
            return ref
        if (normal := normal_path(ref.file)) != ref.file:
            ref = replace(ref, file=normal)
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

    def _examine(self, ref: ImageRef) -> ExaminedImage:
        with reject_bad_pictures():
            if ref.member or ref.offset >= 0:
                return self._examine_contained(ref)
            path = self.find(ref)
            if isinstance(path, RemotePath) and self.reads_bytes(ref, path):
                return _examine_bytes(self.read(ref), name=ref.file)
            with path.open("rb") as file:
                num_bytes = file.seek(0, io.SEEK_END)
                file.seek(0)
                header = read_header(file, num_bytes=num_bytes, name=ref.file)
                digest = digest_of_file(file) if self.reads_bytes(ref, path) else ""
            return ExaminedImage(header=header, digest=digest)

    def _examine_contained(self, ref: ImageRef) -> ExaminedImage:
        """Examine a member, a cell or a base64 value; its header may be all that is read."""
        reads_bytes = self.reads_bytes(ref, self.find(ref))
        header = None if ref.member else self._base64_header(ref)
        if header is None:
            examined = _examine_bytes(self.read(ref), name=_name(ref))
            return examined if reads_bytes else replace(examined, digest="")
        digest = ""
        if reads_bytes:
            with contextlib.suppress(Rejected):  # a task rejects it, as any damaged picture
                digest = digest_of(self.read(ref))
        return ExaminedImage(header=header, digest=digest)

    def reads_bytes(self, ref: ImageRef, path: DataPath) -> bool:
        """Tell whether the picture of a located reference is known by its bytes."""
        if path.suffix not in SUFFIXES and (ref.member or (ref.offset >= 0 and not ref.key)):
            return True
        if self.identity is None:
            return isinstance(path, Path)
        return self.identity == "bytes"

    def _base64_header(self, ref: ImageRef) -> ImageHeader | None:
        """Return the header from the first bytes of a base64 value, or None if they are too few.

        Whether the rest is valid base64 shows when the picture is decoded.
        """
        size = min(ref.size_bytes, _HEAD_CHARACTERS)
        head = decode_head(read_range(self.find(ref), ref.offset, size))
        if sniff_format(head) is None:
            return None
        try:
            return read_header(io.BytesIO(head), num_bytes=ref.size_bytes * 3 // 4, name=_name(ref))
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
            read = read_member if path.suffix in SUFFIXES else read_cell
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
        return self._find(normal_path(ref.file))

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

    def place_of(self, ref: ImageRef, *, file: str) -> str:
        """Return where an image lies below the last folder, however its annotation spells that.

        An image that lies elsewhere is named by a hash of its folder: no path of a machine is told.

        Args:
            ref: A located reference.
            file: The path before it was located, which an archive may replace.
        """
        path = self.find(ref)
        root, file = self._root_of(path, ref), normal_path(file)
        is_inside = ref.file == file and (ref.member or ref.offset >= 0)
        inside = f":{ref.member or ref.offset}" if is_inside else ""
        place = f"{root}/{file}"
        folders = [(self._root_names[-1], "")]
        if isinstance(path, Path):
            place = os.path.realpath(place)
            folders += self._links
        for folder, name in folders:
            if place.startswith(folder + "/"):
                return (name + place.removeprefix(folder)).lstrip("/") + inside
        folder, _, name = place.rpartition("/")
        return f"{xxhash.xxh3_64_hexdigest(folder.encode())}/{name}{inside}"

    @cached_property
    def _links(self) -> list[tuple[str, str]]:
        """Where the links directly in the last folder lead, and their names."""
        last = self._roots[-1]
        if isinstance(last, RemotePath):
            return []
        links = sorted(one for one in last.iterdir() if one.is_symlink())
        return [(os.path.realpath(link), link.name) for link in links]

    def state_of(self, ref: ImageRef) -> int:
        """Return a number that changes with the file that is found, its time, size or ETag.

        It is 0 if nothing is found. Over HTTP, where asking again costs a request, it is
        `FOUND_OVER_HTTP`.
        """
        try:
            located = self.locate(ref)
            path = self.find(located)
        except Rejected:
            return 0
        version = ""
        if isinstance(path, Path):
            status = path.stat()
            version = f"{status.st_mtime_ns} {status.st_size}"
        elif path.can_list:
            version = str(path.version_in_listing())
        else:
            return FOUND_OVER_HTTP
        number = self._root_names.index(self._root_of(path, located))
        return xxhash.xxh3_64_intdigest(f"{number}\0{located.file}\0{version}".encode()) | 2

    def _root_of(self, path: DataPath, located: ImageRef) -> str:
        """Return the name of the folder below which `find` found a file."""
        return str(path).removesuffix("/" + normal_path(located.file))

    def _trusted_folder(self, path: str) -> str:
        """Return the trusted part of a path: a folder that the source names, or the first one."""
        for folder in self._folders:
            if path.startswith(folder):
                return folder
        return path.split("/", 1)[0] if "/" in path else ""


def _name(ref: ImageRef) -> str:
    """Return what errors call an image."""
    return ref.key or ref.file


def _examine_bytes(data: bytes, *, name: str) -> ExaminedImage:
    header = read_header(io.BytesIO(data), num_bytes=len(data), name=name)
    return ExaminedImage(header=header, digest=digest_of(data))


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
        raise Rejected("huge_image", f"{_name(ref)}: {ref.size_bytes} bytes in {ref.file}")
    data = read_range(path, ref.offset, ref.size_bytes)
    return data if ref.member else decode_value(data, name=_name(ref))


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
