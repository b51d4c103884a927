"""Tells lmms-eval of the model `vchat`; imports nothing of it until it asks.

lmms-eval --model vchat --model_args checkpoint=out --tasks mmbench_en_dev --batch_size 1
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The entry point of the group `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vchat", simple_class_path="vchat_lmms_eval_model.VChat")
