"""How large a picture may be: what a build decodes, and what a shard may hold and a reader decodes.

A build accepts larger sources than a shard may hold, because it makes them smaller. Whether the
stored size will be within the limits is known from a source's header, before anything is decoded.
"""

from __future__ import annotations

MAX_BYTES = 100 * 2**20
"""Of a source file."""

MIN_SIDE = 2
"""Of a source, in pixels."""

MAX_SOURCE_SIDE = 30_000
MAX_SOURCE_PIXELS = 80_000_000

MAX_STORED_SIDE = 16_384
MAX_STORED_PIXELS = 1 << 26


class PictureError(ValueError):
    """Bytes that are no picture that can be used."""

    def __init__(self, reason: str, detail: str):
        """`reason` is `huge_image`, `tiny_image` or `undecodable_image`."""
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        return PictureError, (self.reason, str(self))


def check_source_bytes(num_bytes: int, *, name: str) -> None:
    """Check the size of a source file.

    Raises:
        PictureError: `huge_image`.
    """
    if num_bytes > MAX_BYTES:
        raise PictureError("huge_image", f"{name}: {num_bytes} bytes, more than {MAX_BYTES}")


def check_source_size(size: tuple[int, int], *, name: str) -> None:
    """Check the width and height that a source's header declares.

    Raises:
        PictureError: `tiny_image` or `huge_image`.
    """
    width, height = size
    if min(size) < MIN_SIDE:
        raise PictureError("tiny_image", f"{name}: {width} x {height} pixels")
    if max(size) > MAX_SOURCE_SIDE or width * height > MAX_SOURCE_PIXELS:
        raise PictureError("huge_image", f"{name}: {width} x {height} pixels")


def check_stored_size(size: tuple[int, int], *, name: str) -> None:
    """Check the width and height of an image in a shard, or of one that a build would store.

    Raises:
        PictureError: `huge_image`.
    """
    width, height = size
    if max(size) > MAX_STORED_SIDE or width * height > MAX_STORED_PIXELS:
        raise PictureError(
            "huge_image",
            f"{name} of {width}x{height} pixels, at most {MAX_STORED_SIDE} a side and"
            f" {MAX_STORED_PIXELS} in all",
        )
