"""Names from outside as files in a folder: no name leads out of it, and only plain files are read.

Every reader and writer of files whose names come from a manifest goes through here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath


class UnsafePath(OSError, ValueError):
    """A name that leads out of its folder, or a file that is no plain file in it."""

    def __str__(self) -> str:
        return str(self.args[0])


def join_inside(folder: Path, name: str) -> Path:
    """Return `folder / name` for a relative name that stays inside; looks at no file.

    Raises:
        UnsafePath: The name is empty or absolute, or has `..`, a backslash or a control character.
    """
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name
    if not parts or not plain or name.startswith("/") or ".." in parts:
        raise UnsafePath(f"{name!a} is no name of a file in {folder}")
    return folder.joinpath(*parts)


def find_regular(folder: Path, name: str) -> Path:
    """Return the path of a plain file in a folder; a link may lead to another file of the folder.

    Raises:
        FileNotFoundError: There is none.
        UnsafePath: It is a folder, device or pipe, or a link leads out of the folder.
    """
    path = join_inside(folder, name)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise UnsafePath(f"{path} is {_kind(mode)}, wanted a plain file")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafePath(f"{path} is a link out of {folder}, wanted a plain file in it")
    return path


def read_regular(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """Return the content of a plain file in a folder.

    Raises:
        FileNotFoundError: There is none.
        UnsafePath: As for `find_regular`.
        ValueError: It is larger than `max_bytes`.
    """
    return read_plain(find_regular(folder, name), max_bytes=max_bytes)


def read_plain(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of a plain file that the user named, or of the file that it links to.

    Raises:
        FileNotFoundError: There is none.
        UnsafePath: It is a folder, device or pipe.
        ValueError: It is larger than `max_bytes`.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnsafePath(f"{path} is {_kind(found.st_mode)}, wanted a plain file")
    if found.st_size > max_bytes:
        raise ValueError(f"{path} has {found.st_size} bytes, wanted at most {max_bytes}")
    return path.read_bytes()


def open_regular(folder: Path, name: str) -> int:
    """Return a descriptor, open for reading, of a plain file in a folder.

    Raises:
        OSError: There is none, or it is not readable or no plain file.
    """
    path = find_regular(folder, name)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
