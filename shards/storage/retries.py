"""What a failed request to object storage means: whether and when to repeat it, or to give up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

MAX_REFUSALS = 3
"""After so many refusals in a row, more attempts are of no use."""

TRANSIENT_STATUS = ("408", "429")
"""Status codes of the 400s that ask the client to repeat the request: time-out, too many."""


class ShortBodyError(Exception):
    """A body had fewer bytes than were requested, without any other error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """What a failed request means for the next one."""

    is_final: bool = False
    """A repeated request would get the same answer."""

    is_refusal: bool = False
    """The service does not accept the request or its credentials; new ones may help."""


def classify_failure(error: Exception) -> FailureKind:
    """Return what an error of the client means for the next request."""
    if isinstance(error, PreconditionError):
        return FailureKind(is_final=True)
    status = re.search(r"status code: (\d+)", str(error))
    refused = status is not None and status[1].startswith("4") and status[1] not in TRANSIENT_STATUS
    return FailureKind(
        is_refusal=refused or isinstance(error, PermissionDeniedError | UnauthenticatedError)
    )


def retry_pauses(retry_for_s: float) -> Iterator[float]:
    """Yield pauses in seconds, each twice the one before up to 10, that add up to `retry_for_s`."""
    pause, left_s = FIRST_PAUSE_S, retry_for_s
    while left_s > 0:
        yield min(pause, left_s)
        left_s -= pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


METADATA_SERVICE = "169.254.169.254"
"""The machine's metadata service, which the client asks for keys if there are no others."""


def first_line(error: Exception) -> str:
    """Return the message of a client's error, without its appendix for debugging."""
    if isinstance(error, PreconditionError):
        return "the object was replaced since it was first read"
    said = str(error).split("\n", 1)[0].strip()
    if METADATA_SERVICE in said:
        return f"no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({said})"
    return said
