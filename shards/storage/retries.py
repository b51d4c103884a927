"""What a failed request to object storage means: ask again, when, with new credentials, or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

MAX_REFUSALS = 3
"""Answers in a row that refuse the request; more attempts would not change them."""

TRANSIENT_STATUS = ("408", "429")
"""Answers to the client that ask it to come again: time-out, too many requests."""


class ShortBodyError(Exception):
    """A body had fewer bytes than were asked for, and no other sign of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """What a failed request means for the next one."""

    is_final: bool = False
    """Asking again gives the same answer."""

    is_refusal: bool = False
    """The service does not accept who asks, or how; new credentials may help."""


def classify_failure(error: Exception) -> FailureKind:
    """Return what to do after an error of the client."""
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
"""The machine's own service for keys, which the client asks where nothing else gives them."""


def first_line(error: Exception) -> str:
    """Return what a client's error says, without its debugging appendix."""
    if isinstance(error, PreconditionError):
        return "the object was replaced since it was first read"
    said = str(error).split("\n", 1)[0].strip()
    if METADATA_SERVICE in said:
        return f"no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({said})"
    return said
