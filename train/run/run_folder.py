"""The folder of a run: one run at a time writes there, and all hosts see the same one."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from vchat.base.files import write_atomically
from vchat.base.locks import lock_file

LOCK_WAIT_S = 15.0
"""The processes of a killed run need a moment to end, and with them their lock."""

TOKEN_WAIT_S = 10.0
"""Network folders may show a new file a little later to other hosts."""


@contextlib.contextmanager
def lock_run_folder(out: Path, *, rank: int) -> Iterator[None]:
    """Keep a second run out of the folder during the block; rank 0 holds the lock.

    The system releases it when the process ends, however it ends.

    Raises:
        ValueError: on all ranks, if another process still holds it after `LOCK_WAIT_S`, or if not
            all hosts see one folder there.
    """
    import torch.distributed as dist

    with _lock_on_rank_0(out, rank=rank) as is_locked:
        token = [_write_token(out) if is_locked else ""]
        dist.broadcast_object_list(token, src=0)
        if not token[0]:
            raise ValueError(f"{out}: another run is writing there")
        seen = [False] * dist.get_world_size()
        dist.all_gather_object(seen, sees_token(out, token[0], wait_s=TOKEN_WAIT_S))
        if not all(seen):
            blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
            raise ValueError(
                f"{out}: ranks {', '.join(blind)} see another folder there than rank 0; run.out "
                "must be one folder that all hosts share"
            )
        yield


def _lock_on_rank_0(out: Path, *, rank: int) -> contextlib.AbstractContextManager[bool]:
    """Lock the folder; yields whether this process holds the lock."""
    if rank != 0:
        return contextlib.nullcontext(enter_result=False)
    return lock_file(out / ".lock", wait_s=LOCK_WAIT_S)


def _write_token(out: Path) -> str:
    """Write down a word that no other folder holds, and return it."""
    token = uuid.uuid4().hex
    with write_atomically(out / ".token") as file:
        file.write(token.encode())
    return token


def sees_token(out: Path, token: str, *, wait_s: float) -> bool:
    """Whether the folder holds that word within `wait_s`."""
    last = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(FileNotFoundError):
            if (out / ".token").read_text() == token:
                return True
        if time.monotonic() > last:
            return False
        time.sleep(0.2)
