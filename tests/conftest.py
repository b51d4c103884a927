"""Fixtures that tests of several folders share, and how tests are spread over processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples in every run; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# There is a process for every core, so each computes in one thread. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["vchat_testing.leftovers"]


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests: one process runs a group, one after the other.

    A file is a group, so that its fixtures are made once. `launches` are the files that start
    several ranks, of which one set at a time is enough for any machine; they come first, since they
    take the longest.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.stem}"))
    items.sort(key=lambda item: not _is_launch(item))


def _is_launch(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("xdist_group")
    return marker is not None and marker.args == ("launches",)


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
