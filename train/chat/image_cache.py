"""A cache of the decoder's states of images, for the dialogues that show an image again.

In: pixels. Out: keys and values of their positions, computed once per image. The cache holds the
most recently used images, up to a number of bytes; its key is the digest of an image's pixels.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from torch import Tensor

from vchat.model.image_states import ImageStates
from vchat.model.visual_chat import VisualChat

DEFAULT_BYTES = 1 << 30
"""Eight images of 257 positions in a decoder of 7 billion parameters at 16 bits."""


class ImageStateCache:
    """The states of the most recently used images, for one model. Not thread-safe."""

    def __init__(self, *, max_bytes: int = DEFAULT_BYTES):
        """`max_bytes` 0 stores nothing."""
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._states: OrderedDict[bytes, ImageStates] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def states(self, model: VisualChat, image: Tensor, *, num_positions: int) -> ImageStates:
        """Return the states of an image, [..., 3, H, W]; compute them if they are not cached."""
        key = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest()
        found = self._states.pop(key, None)
        if found is None:
            pixels = image.reshape(-1, *image.shape[-3:]).to(model.device)
            found = model.compute_image_states(pixels, num_positions=num_positions)
            self.size_bytes += found.size_bytes
        self._states[key] = found
        while self.size_bytes > self.max_bytes and self._states:
            _, evicted = self._states.popitem(last=False)
            self.size_bytes -= evicted.size_bytes
        return found
