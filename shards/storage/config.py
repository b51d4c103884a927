"""Settings of object storage: endpoint, credentials file, cache, time limits.

They contain no secret: keys come from the variables of each cloud's own tools (`AWS_*` and so on)
or from a credentials file, so the settings can be saved with every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How remote shard sets are read. Changes speed and time limits, never what is delivered."""

    endpoint: str | None = None
    """URL of another service with the protocol of S3, Google or Azure."""

    credentials_file: Path | None = None
    """File with keys for S3 in the format of AWS's tools (`[default] aws_access_key_id = ...`),
    read again when the service refuses the keys in use; without it the `AWS_*` variables count."""

    cache: Path | None = None
    """Folder on a local disk for whole shards, shared by all processes of a machine; without it
    byte ranges are read over the network in every epoch."""

    cache_bytes: int = 100_000_000_000
    """Size limit of the cache; shards that were not used for longest are evicted."""

    timeout_s: float = 30.0
    """A request without a byte for so long is cancelled and repeated."""

    retry_for_s: float = 120.0
    """How long a request is repeated, after growing pauses, before it fails."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            refuse_secrets(self.endpoint)
        if self.cache_bytes < 1:
            raise ValueError(f"cache_bytes must be at least 1 byte, got {self.cache_bytes}")
        if self.timeout_s <= 0 or self.retry_for_s < 0:
            raise ValueError("timeout_s must be above 0 and retry_for_s at least 0")


def refuse_secrets(url: str) -> None:
    """Raise ValueError if a URL has a user, password or query; the message does not show them."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise ValueError(
            f"{shown} was given with a user, password or query, which would be written to logs and "
            "checkpoints; give keys through the environment or storage.credentials_file"
        )
