"""Fields of a model's configuration that would make transformers run or fetch code, or read files.

`auto_map` names code beside the model, implementations of attention and experts may be names of
repositories whose kernels are fetched, and so on. None of it is wanted of a file that may come from
anybody: attention and experts are chosen here, and code is never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DROPPED = re.compile(
    r"auto_map|custom_pipelines|_?(attn|experts)_implementation(_internal|_autoset)?"
    r"|(fusion|kernel|distributed)_config|transformers_weights|_?name_or_path"
)
"""The names of these fields."""


def drop_code_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields without `DROPPED` ones, at any depth."""
    return {
        name: drop_code_fields(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if not DROPPED.fullmatch(str(name))
    }
