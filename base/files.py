"""Write files so that a reader never sees half of one, and name contents by digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BUFFER_BYTES = 2**20
"""Written at a time; a sample is several small pieces."""


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` for writing; it takes the name `path` only if the block succeeds.

    Bytes are synced to disk before the rename: after a crash `path` is absent, old, or whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with aside.open("wb", buffering=BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def inherit_permissions(file: Path) -> None:
    """Let those read a file who may read the folder that it lies in: so the umask decides.

    safetensors makes files that only their owner reads.
    """
    file.chmod(file.parent.stat().st_mode & 0o666)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of what is left to read of an open file."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
