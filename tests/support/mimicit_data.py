"""Writes MIMIC-IT sets as their JSON pair: instructions, and pictures in base64."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from vchat_testing.raw_data import IMAGES, write_json


def picture(kind: str = "good", number: int = 0) -> str:
    """Return a picture of one of the kinds in `IMAGES` as base64 text."""
    return base64.b64encode(IMAGES[kind](number)).decode()


def entry(
    *image_ids: Any, rel: Any = (), instruction: str = "What changed?", answer: str = "A car left."
) -> dict[str, Any]:
    """Return one instruction about some images, and the ids of related ones."""
    return {
        "instruction": instruction,
        "answer": answer,
        "image_ids": list(image_ids),
        "rel_ins_ids": list(rel),
    }


def write_set(data: Path, name: str, entries: dict[str, Any], images: dict[str, str]) -> None:
    """Write both files of the set `SD`, `SN` .."""
    write_json(data / f"MIMIC-IT/{name}/{name}_instructions.json", {"meta": {}, "data": entries})
    write_json(data / f"MIMIC-IT/{name}/{name}.json", images)


def sd(number: int, side: int) -> str:
    """Return the id of one side of a pair of SD."""
    return f"SD_IMG_{number:05d}_{side}"
