"""What the shards of a build hold, by their index rows: the numbers of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_MAX_SIDE = 2**31 - 1


def compute_histograms(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Return title -> counts by value, or between powers of two, of samples and of images."""
    sides = pc.list_flatten(rows["image_original_sizes"]).to_numpy().reshape(-1, 2)
    return {
        "rounds per sample": _histogram(rows["num_rounds"].to_numpy()),
        "images per sample": _histogram(rows["num_images"].to_numpy()),
        "records per sample": _histogram(rows["num_records"].to_numpy()),
        "text tokens per sample": _doubling_histogram(rows["text_tokens"].to_numpy()),
        "supervised tokens per sample": _doubling_histogram(rows["supervised_tokens"].to_numpy()),
        "shorter side of an original, pixels": _doubling_histogram(
            sides.min(axis=1, initial=_MAX_SIDE)
        ),
    }


def summarize_blend(
    rows: pa.Table, *, choices: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return one line per source and split: what of it is in the shards, and how it was joined."""
    named = {choice["name"]: choice for choice in choices}
    keys = ["source", "split"]
    flat = rows.set_column(
        rows.column_names.index("source"), "source", rows["source"].cast(pa.string())
    )
    columns = ("num_records", "num_rounds", "num_images", "text_tokens", "supervised_tokens")
    sums = [(name, "sum") for name in columns]
    table = flat.group_by(keys).aggregate([("key", "count"), *sums])
    lines = []
    for line in table.sort_by([("source", "ascending"), ("split", "descending")]).to_pylist():
        choice = named.get(line["source"], {})
        lines.append(
            {
                "source": line["source"],
                "split": line["split"],
                "concatenate": choice.get("concatenate", 1),
                "limit": choice.get("limit"),
                "samples": line["key_count"],
                **{name.removeprefix("num_"): line[f"{name}_sum"] for name in columns},
            }
        )
    return lines


def count_images(rows: pa.Table) -> dict[str, int]:
    """Return how many images are stored, and the bytes of those that are stored again."""
    members = pc.list_flatten(rows["members"]).combine_chunks()
    images = members.filter(pc.match_substring_regex(pc.struct_field(members, "name"), "^[0-9]"))
    sizes = pc.struct_field(images, "size").to_numpy(zero_copy_only=False)
    _, first = np.unique(
        pc.struct_field(images, "xxh3").to_numpy(zero_copy_only=False), return_index=True
    )
    repeated_bytes = int(sizes.sum()) - int(sizes[first].sum())
    return {"images": len(images), "repeated_image_bytes": repeated_bytes}


def _histogram(values: NDArray[Any]) -> dict[str, int]:
    found, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(found, counts, strict=True)}


def _doubling_histogram(values: NDArray[Any]) -> dict[str, int]:
    """Return counts between powers of two, `128-255`, from the least to the most that there is."""
    exponents = np.frexp(values.astype(np.float64))[1] - 1
    found, counts = np.unique(np.maximum(exponents, 0), return_counts=True)
    of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    span = range(min(of), max(of) + 1) if of else range(0)
    return {f"{2**n}-{2 ** (n + 1) - 1}": of.get(n, 0) for n in span}
