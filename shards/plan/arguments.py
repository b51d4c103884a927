"""Everything but the index that an epoch plan depends on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vchat.shards.pixels.grid import ImageGrid, Tiling

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceShare:
    """How much of a source an epoch draws; without one, every sample of the source once."""

    source: str
    weight: float = 1.0
    """Draws per sample and epoch: 2 draws each twice, 0.5 half of them and the others next epoch.

    Fractional weights walk a fixed permutation of the source over the epochs: after any number of
    epochs, the numbers of draws of two samples differ by at most 1.
    """

    cap: int | None = None
    """Maximum number of draws per epoch; they walk the same permutation."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight of source {self.source!r} must be >= 0, got {self.weight}")
        if self.cap is not None and self.cap < 0:
            raise ValueError(f"cap of source {self.source!r} must be >= 0, got {self.cap}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArguments:
    """What an epoch plan depends on, besides the index. Each is part of its digest."""

    split: str
    seed: int
    epoch: int
    """From 0. Each epoch has its own order and its own packing."""

    tokens_per_row: int
    """Positions in a row: text, image slots and padding. Memory grows with it."""

    images_per_row: int
    """Maximum number of images in a row."""

    positions_per_image: int
    shuffle_window_shards: int
    """Number of shards whose samples mix, per lane. More: better shuffled, more open files."""

    lanes: int = 1
    """Number of independent streams of shards; about the number of ranks times readers."""

    balanced_rows: int = 1
    """Number of successive rows that should cost about the same: ranks times rows per micro-batch.

    1 leaves the order random.
    """

    mix: tuple[SourceShare, ...] = ()
    set_weights: tuple[float, ...] = ()
    """Draws per sample for each shard set, times those of its source; empty: 1 for all."""

    exclude: tuple[str, ...] = ()
    """Keys of samples to leave out."""

    on_too_long: Literal["error", "exclude"] = "error"
    """What to do with a sample that no row can hold; excluded ones are listed in the plan."""

    tail: Literal["pad", "drop"] = "pad"
    """`pad` fills the last step with zero-weight rows, `drop` leaves an incomplete step out."""

    tiling: Tiling | None = None
    """How to cut larger images; each tile counts as an image of `images_per_row`."""

    positions_per_sample: int | None = None
    """Length of the decoder's longest sequence, if it is shorter than a row."""

    plan_version: int = PLAN_VERSION

    def __post_init__(self) -> None:
        positive = ("tokens_per_row", "positions_per_image", "shuffle_window_shards", "lanes")
        for name in (*positive, "balanced_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("images_per_row", "epoch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, choices in (("on_too_long", ("error", "exclude")), ("tail", ("pad", "drop"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if any(not 0 <= weight < float("inf") for weight in self.set_weights):
            raise ValueError(f"set_weights must be >= 0, got {self.set_weights}")
        if self.plan_version != PLAN_VERSION:
            raise ValueError(
                f"plan_version {self.plan_version} is not known; this code makes {PLAN_VERSION}"
            )

    @property
    def grid(self) -> ImageGrid:
        """How many positions an image takes."""
        from vchat.shards.pixels.grid import ImageGrid  # loads numpy, which commands do not need

        return ImageGrid(positions_per_input=self.positions_per_image, tiling=self.tiling)

    def describe(self) -> dict[str, Any]:
        """Return the arguments as JSON values, and of excluded keys only number and digest."""
        listed = "\n".join(sorted(set(self.exclude)))
        excluded = f"{len(set(self.exclude))} keys, sha256 " + (
            hashlib.sha256(listed.encode()).hexdigest()
        )
        values = asdict(self)
        if self.tiling is None:  # so that plans from before there was tiling keep their digests
            del values["tiling"]
        return values | {
            "mix": [asdict(share) for share in self.mix],
            "set_weights": list(self.set_weights),
            "exclude": excluded if self.exclude else "",
        }

    def draws_per_sample(self, *, set_number: int, source: str) -> Fraction:
        """Return how often an epoch draws each sample of a source in a set, on average.

        Exact: a weight counts as the decimal number that its text says.
        """
        weight = Fraction(str(self.set_weights[set_number])) if self.set_weights else Fraction(1)
        share = self.share_of(source)
        return weight * Fraction(str(share.weight)) if share else weight

    def share_of(self, source: str) -> SourceShare | None:
        """Return the entry of `mix` for a source; None without one."""
        return next((share for share in self.mix if share.source == source), None)
