"""Which picture an image is: a key of its data set, the digest of its bytes, or its path.

The key of a picture decides its side of the split, so it must not depend on who names it or how. A
data set that numbers its pictures gives each a canonical key (`coco:42`). Any other picture is
named by the digest of its bytes (`xxh3:..`), or, where reading all bytes costs too much, by its
normal path below the data folder (`path:pics/1.jpg`). The name of a source is in none of them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import IO, Literal

import xxhash

Identity = Literal["bytes", "path"]
"""What tells whether two pictures are the same one, besides canonical keys."""

_BYTES, _PATH = "xxh3:", "path:"
_CHUNK_BYTES = 2**20

KINDS: Mapping[str, str] = {
    "canonical": "by the key of their data set",
    "bytes": "by the digest of their bytes",
    "path": "by their path: copies of a picture under other names are not recognised",
}
"""Kind of a key -> how a report says that pictures are named by it."""


def kind_of_key(key: str) -> str:
    """Return which of `KINDS` a key is."""
    if key.startswith(_BYTES):
        return "bytes"
    return "path" if key.startswith(_PATH) else "canonical"


def key_of_digest(digest: str) -> str:
    """Return the key of a picture that is known by its bytes alone."""
    return _BYTES + digest


def key_of_place(place: str) -> str:
    """Return the key of a picture that is known by its place alone."""
    return _PATH + place


def digest_of(data: bytes) -> str:
    """Return the digest of a picture's bytes."""
    return xxhash.xxh3_128_hexdigest(data)


def digest_of_file(file: IO[bytes]) -> str:
    """Return the digest of a whole open file, read a piece at a time."""
    file.seek(0)
    hasher = xxhash.xxh3_128()
    while chunk := file.read(_CHUNK_BYTES):
        hasher.update(chunk)
    return hasher.hexdigest()


def normal_path(path: str) -> str:
    """Return a relative path without `.`, `..`, and empty parts, if it stays in its folder.

    Another path is returned as it is: `ImageFiles` rejects it.
    """
    if "//" not in path and "/." not in path and not path.startswith("."):
        return path
    normal = posixpath.normpath(path)
    leaves = normal in (".", "..") or normal.startswith(("/", "../")) or path.endswith("/")
    return path if leaves else normal
