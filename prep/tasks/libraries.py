"""The libraries whose versions shape a shard's bytes: in plans and manifests, and checked.

A machine of a cluster or an array with other versions would write other bytes for the same plan.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

from vchat.prep.convert.images import library_versions


@cache
def libraries() -> dict[str, str]:
    """Return name -> version of the libraries that shape any byte of a shard."""
    return token_libraries() | library_versions()


def token_libraries() -> dict[str, str]:
    """Return name -> version of the libraries that shape tokens, whatever the images."""
    return {name: version(name) for name in ("numpy", "tokenizers")}


def check_libraries(planned: Mapping[str, str]) -> None:
    """Check that this machine has the versions that a plan was made with.

    Raises:
        OSError: It has not; names the machine, a library and both versions.
    """
    found = libraries()
    for name in sorted(planned.keys() | found.keys()):
        if planned.get(name) != found.get(name):
            raise OSError(
                f"{socket.gethostname()} has {name} {found.get(name, 'missing')}, the plan was made"
                f" with {planned.get(name, 'none')}: every machine needs the same versions"
            )
