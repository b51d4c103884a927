"""How shards in object storage are reached: endpoint, credentials file, cache, patience.

Secrets are never among these settings: keys come from the variables of each cloud's own tools
(`AWS_*` and so on) or from a credentials file, so settings can be saved with every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How remote shard sets are read. Changes speed and patience, never what is delivered."""

    endpoint: str | None = None
    """URL of a service that speaks the protocol of S3, Google or Azure, instead of their own."""

    credentials_file: Path | None = None
    """Keys for S3 in the format of AWS's tools (`[default] aws_access_key_id = ...`), read anew
    when the service refuses the ones in use; none means the `AWS_*` variables."""

    cache: Path | None = None
    """Folder on a local disk for whole shards, shared by all processes of a machine; none reads
    byte ranges over the network in every epoch."""

    cache_bytes: int = 100_000_000_000
    """The most that shards in the cache may take; those not used for longest give way."""

    timeout_s: float = 30.0
    """A request that brings no byte for so long is given up and tried again."""

    retry_for_s: float = 120.0
    """How long a request is tried again, with growing pauses, before its samples count as lost."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            refuse_secrets(self.endpoint)
        if self.cache_bytes < 1:
            raise ValueError(f"cache_bytes must be at least 1 byte, got {self.cache_bytes}")
        if self.timeout_s <= 0 or self.retry_for_s < 0:
            raise ValueError("timeout_s must be above 0 and retry_for_s at least 0")


def refuse_secrets(url: str) -> None:
    """Raise ValueError if a URL has a place where secrets stand; the message does not show them."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise ValueError(
            f"{shown} was given with a user, password or query, which would be written to logs and "
            "checkpoints; give keys through the environment or storage.credentials_file"
        )
