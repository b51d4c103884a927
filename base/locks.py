"""Locks between processes (flock), on files and folders; the kernel frees them when a process ends.

They work on a local disk and where the file system carries them between machines.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

RETRY_EVERY_S = 0.5


@contextlib.contextmanager
def lock_file(path: Path, *, shared: bool = False, wait_s: float = 0.0) -> Iterator[bool]:
    """Lock a file during the block; yield False if another process still holds it after `wait_s`.

    Args:
        path: Made if absent, with its folders; emptied.
        shared: Admit other processes that lock it shared too.
        wait_s: How long to try again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield _lock_within(file, wait_s, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, made if absent, during the block; waits as long as another holds it.

    Excludes other processes, and other threads of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claim_file(path: Path) -> Iterator[IO[bytes] | None]:
    """Open a file, made if absent, for writing; yield None if another process writes it.

    The content is kept. Yields None as well if the file lost its name meanwhile: another process
    has finished it.
    """
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "wb", buffering=0) as file:  # noqa: PTH123
        is_ours = _lock_within(file, 0.0, fcntl.LOCK_EX) and _still_has_path(file, path)
        yield file if is_ours else None


def _lock_within(file: IO[bytes], wait_s: float, kind: int) -> bool:
    """Lock an open file; False if it is still locked by another process after `wait_s`."""
    last = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= last:
                return False
            time.sleep(RETRY_EVERY_S)
        else:
            return True


def _still_has_path(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
