"""Write files that a reader never sees half written, and digests of contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BUFFER_BYTES = 2**20
"""Size of a write; a sample is several small pieces."""

PARTIAL_SUFFIX = ".part"


@contextlib.contextmanager
def write_atomically(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a file beside `path` for writing; it takes the name `path` only if the block succeeds.

    Its folder is made if absent. An ended process leaves at most the file beside `path`, which
    `remove_partial_files` removes.

    Args:
        path: Replaced if it exists.
        sync: Bring the bytes to the disk before the rename: after a crash of the machine `path` is
            absent, old, or whole. False for what can be made again and shows whether it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        with aside.open("wb", buffering=BUFFER_BYTES) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove_partial_files(folder: Path, *, recursive: bool = False) -> None:
    """Remove what killed processes have left of `write_atomically`; no other may be writing there.

    Args:
        folder: Where the files lie; it may be absent.
        recursive: Look in its subfolders too.
    """
    pattern = f".*{PARTIAL_SUFFIX}"
    for partial in folder.rglob(pattern) if recursive else folder.glob(pattern):
        partial.unlink(missing_ok=True)


def inherit_permissions(file: Path) -> None:
    """Give a file the read and write permissions of its folder, which follow the umask.

    safetensors makes files that only their owner can read.
    """
    file.chmod(file.parent.stat().st_mode & 0o666)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of the rest of an open file."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
