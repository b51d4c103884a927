"""Training: DeepSpeed runs on shard sets, their evaluation, and chat with the result.

What `__all__` names is public.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vchat.train.config.run import read_run as read_run
    from vchat.train.run.launch import run_training as run_training
else:
    from vchat.base.faces import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "read_run": "config.run",
            "run_training": "run.launch",
        },
    )

__all__ = ["read_run", "run_training"]
