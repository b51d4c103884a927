"""How the weights of a model are loaded: whole on every process, or in shares.

Under ZeRO-3 each module is split over the ranks as soon as it is made, and rank 0 hands out the
values of one module at a time, read from safetensors files that the system maps into memory. So no
rank ever holds a big decoder whole. A model part that starts from random weights (a table in
RUN.toml) is made whole on every rank, which gives the same weights under every stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLoading:
    """Arithmetic and place of weights that are loaded from a folder."""

    dtype: torch.dtype = torch.float32
    """Of the parameters; what is computed once, such as rotary frequencies, stays float32."""

    partition_settings: dict[str, Any] | None = None
    """DeepSpeed's dictionary of a ZeRO-3 run, which splits what is loaded; None loads it whole."""

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Load inside this block; all ranks enter it together.

        What is drawn inside changes no random number outside: rank 0 draws more than the others.
        """
        with torch.random.fork_rng(devices=[]), _partition_in_transformers(self.partition_settings):
            yield


@contextlib.contextmanager
def _partition_in_transformers(settings: dict[str, Any] | None) -> Iterator[None]:
    """Make the library split what it loads in this block, unless there are no settings."""
    if settings is None:
        yield
        return
    from transformers.integrations import deepspeed as integration

    held = integration.HfDeepSpeedConfig(settings)
    try:
        yield
    finally:
        integration.unset_hf_deepspeed_config()
        del held  # the library refers to it weakly: it had to live until here


WHOLE = WeightLoading()
"""In float32, whole on this process."""
