"""Fixtures that tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server, started once, when the first test needs it."""
    from vchat_testing.s3_server import serve_s3

    with serve_s3(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """An empty place on that server (`s3_server.Bucket`); clients of this process find it."""
    from vchat_testing.s3_server import new_bucket

    bucket = new_bucket(s3_endpoint)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket
