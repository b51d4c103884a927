"""The npy files of a sample: one-dimensional arrays without objects, in one form only.

The header is read by a pattern and never evaluated, and its length must be that of the bytes.
"""

from __future__ import annotations

import io
import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS_KIND, MASK_KIND = "<i4", "|b1"
MAX_HEADER_BYTES = 4096
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][0-9])', 'fortran_order': (?:False|True), "
    rb"'shape': \(([0-9]{1,12}),\),? *\} *\n"
)


def encode_npy(array: NDArray[Any], kind: str) -> bytes:
    """Return an array as an npy file of format version 1.0, little-endian."""
    return _npy_header(kind, array.shape) + np.ascontiguousarray(array, dtype=kind).tobytes()


@lru_cache(maxsize=8192)
def _npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an npy file; cached, because samples have few different lengths."""
    file = io.BytesIO()
    described = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def parse_npy(data: bytes | memoryview, kind: str) -> NDArray[np.generic]:
    """Return the one-dimensional array in the bytes of an npy file, without a copy.

    Args:
        data: The whole file.
        kind: `TOKENS_KIND` or `MASK_KIND`.

    Raises:
        ValueError: It is not an npy file of this kind, is cut, or is longer than it says.
    """
    start = 10 + int.from_bytes(data[8:10], "little")
    if start > MAX_HEADER_BYTES:
        raise ValueError(f"a npy header of {start} bytes, wanted at most {MAX_HEADER_BYTES}")
    length = _parse_header(bytes(data[:start]), kind)
    wanted = start + length * np.dtype(kind).itemsize
    if len(data) != wanted:
        raise ValueError(f"{len(data)} bytes, its npy header says {wanted}")
    array = np.frombuffer(data, dtype=kind, offset=start)
    if kind == MASK_KIND and length and array.view(np.uint8).max() > 1:
        raise ValueError("a mask with bytes other than 0 and 1")
    return array


@lru_cache(maxsize=8192)
def _parse_header(header: bytes, kind: str) -> int:
    """Return the length of the array; cached, as headers differ in it only."""
    if header[:8] != _MAGIC:
        raise ValueError(f"not a npy file of version 1.0: begins with {header[:8]!r}")
    found = _HEADER.fullmatch(header[10:])
    if found is None:
        raise ValueError(f"a npy header that is not of one array: {header[10:90]!r}")
    if found[1].decode() != kind:
        raise ValueError(f"an array of {found[1].decode()}, wanted {kind}")
    return int(found[2])
