"""Convert the optimizer state of a run for another number of processes (ZeRO stages 1 to 3).

DeepSpeed partitions the state over ranks and loads it only on as many. Its converter writes one
folder per parameter instead (a universal checkpoint), which any number of ranks can load.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from pathlib import Path

import torch.distributed as dist

from vchat.train.checkpoints.checkpoint import Checkpoint


def needs_conversion(checkpoint: Checkpoint, *, zero_stage: int, world_size: int) -> bool:
    """Whether these processes cannot load the state as it is. Stage 0 keeps it whole."""
    return zero_stage > 0 and int(checkpoint.state["world_size"]) != world_size


def convert_state(checkpoint: Checkpoint, *, tag: str) -> Path:
    """Convert on rank 0 and return the folder that holds `tag`; all ranks call it.

    The caller has compared the files with their digests, and lets torch read weights only:
    DeepSpeed's converter unpickles them. The caller removes the folder after loading.
    """
    universal = checkpoint.folder.with_name(f".{checkpoint.folder.name}.universal")
    if dist.get_rank() == 0:
        shutil.rmtree(universal, ignore_errors=True)
        universal.mkdir()
        _run_converter(checkpoint.folder / tag, universal / tag)
    dist.barrier()
    return universal


def _run_converter(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    options = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # of tensor parallelism, which we do not use
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
