"""The client of object storage (obstore), connected: endpoint, credentials, timeouts.

Credentials are the standard ones of each cloud's own tools (`AWS_*` and so on), which the client
reads, or those of a file. By default the client makes no retry of its own: `RemoteStore` makes
them, so that they are counted and their length is known.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import from_url

from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.credentials import FileCredentials
from vchat.shards.storage.retries import first_line

ENDPOINT_KEYS = {"s3": "endpoint", "s3a": "endpoint", "az": "endpoint", "gs": "base_url"}
MAX_RETRIES = 8
"""Of one request, where the client retries; their time is bounded too."""


def connect(
    url: str,
    storage: StorageConfig,
    *,
    request_limit_s: float | None = None,
    client_retries: bool = False,
) -> Any:
    """Return a client for the objects under a URL.

    Args:
        url: `s3://`, `gs://`, `az://`, `http://` or `https://`.
        storage: Endpoint, credentials and timeouts.
        request_limit_s: How long one request may take and be silent; by default it is given up
            after `timeout_s` without a byte, and after ten times that in any case.
        client_retries: Let the client repeat a failed request, for uploads in many parts.

    Raises:
        ValueError: The URL is malformed, or there is no such setting for its kind.
    """
    try:
        return from_url(
            url, **_settings(url, storage, limit_s=request_limit_s, client_retries=client_retries)
        )
    except BaseError as err:
        raise ValueError(
            f"{url}: {first_line(err)}; wanted s3://, gs://, az://, http:// or https://"
        ) from err


def _settings(
    url: str, storage: StorageConfig, *, limit_s: float | None, client_retries: bool
) -> dict[str, Any]:
    """Return the arguments of obstore's `from_url` after the URL."""
    timeout = timedelta(seconds=storage.timeout_s)
    limit = None if limit_s is None else timedelta(seconds=limit_s)
    retries: dict[str, Any] = {"max_retries": 0}
    if client_retries:
        limit_of_retries = timedelta(seconds=storage.retry_for_s)
        retries = {"max_retries": MAX_RETRIES, "retry_timeout": limit_of_retries}
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": limit or 10 * timeout,
            "read_timeout": limit or timeout,
            "connect_timeout": min(timedelta(seconds=10), timeout),
            "allow_http": True,
        },
        "retry_config": retries,
    }
    scheme = url.partition("://")[0]
    if storage.endpoint is not None:
        if scheme not in ENDPOINT_KEYS:
            raise ValueError(f"{url}: storage.endpoint is for s3://, gs:// and az:// URLs")
        settings["config"] = {ENDPOINT_KEYS[scheme]: storage.endpoint}
    if storage.credentials_file is not None:
        if scheme not in ("s3", "s3a"):
            raise ValueError(f"{url}: storage.credentials_file is for s3:// URLs")
        settings["credential_provider"] = FileCredentials(storage.credentials_file)
    return settings
