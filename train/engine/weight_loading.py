"""How the weights of a model are loaded: whole on every process, or partitioned over the ranks.

Under ZeRO-3 each module is partitioned as soon as it is made, and rank 0 broadcasts the values of
one module at a time, read from memory-mapped safetensors files. So no rank ever holds a large
decoder whole. A model part that starts from random weights (a table in RUN.toml) is made whole on
every rank, which gives the same weights under every stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLoading:
    """Data type and placement of weights that are loaded from a folder."""

    dtype: torch.dtype = torch.float32
    """Of the parameters. Computed buffers, such as rotary frequencies, stay float32."""

    partition_settings: dict[str, Any] | None = None
    """DeepSpeed's dictionary of a ZeRO-3 run, which partitions what is loaded; None: whole."""

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Load as stated inside this block; all ranks enter it together.

        Random numbers drawn inside change none outside: rank 0 draws more than the others.
        """
        with torch.random.fork_rng(devices=[]), _partition_in_transformers(self.partition_settings):
            yield


@contextlib.contextmanager
def _partition_in_transformers(settings: dict[str, Any] | None) -> Iterator[None]:
    """Make transformers partition what it loads in this block; without settings, do nothing."""
    if settings is None:
        yield
        return
    from transformers.integrations import deepspeed as integration

    integration_config = integration.HfDeepSpeedConfig(settings)
    try:
        yield
    finally:
        integration.unset_hf_deepspeed_config()
        del integration_config  # transformers holds only a weak reference to it


WHOLE = WeightLoading()
"""In float32, whole on this process."""
