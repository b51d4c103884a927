"""MIMIC-IT SD: small differences between two frames of a surveillance camera.

Input: `MIMIC-IT/SD/SD_instructions.json` and `MIMIC-IT/SD/SD.json`. Output: one record per group of
related instructions about two images. A record with one side missing is rejected, never shortened.
"""

from __future__ import annotations

from vchat.prep.sources.mimicit.frames import FrameSet, frame_source
from vchat.prep.sources.source import KnownCount

SOURCE = frame_source(
    FrameSet(name="SD", num_images=2),
    about="small differences between two frames of a surveillance camera (16 k)",
    known_count=KnownCount(number=15_989, of="pairs"),
)
