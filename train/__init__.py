"""Training: DeepSpeed runs on shard sets, their evaluation, and chat with the result.

What `__all__` names is public. Rooms, each on those before it: config, costs, engine, checkpoints,
chat, convert, logs, step, run, evaluation, forecast, where, commands. Nothing here converts data
sets.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vchat.train.chat.chat_model import load_chat_model as load_chat_model
    from vchat.train.chat.generation import Sampling as Sampling
    from vchat.train.chat.session import ChatSession as ChatSession
    from vchat.train.config.run import read_run as read_run
    from vchat.train.evaluation.metrics import exact_match as exact_match
    from vchat.train.run.launch import run_training as run_training
else:
    from vchat.base.faces import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "ChatSession": "chat.session",
            "Sampling": "chat.generation",
            "exact_match": "evaluation.metrics",
            "load_chat_model": "chat.chat_model",
            "read_run": "config.run",
            "run_training": "run.launch",
        },
    )

__all__ = ["ChatSession", "Sampling", "exact_match", "load_chat_model", "read_run", "run_training"]
