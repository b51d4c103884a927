"""The model: tensors in, tensors out.

What `__all__` names is public. Nothing here knows the format of shards, a plan or a training run.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vchat.model.config import VisualChatConfig as VisualChatConfig
    from vchat.model.visual_chat import VisualChat as VisualChat
else:
    from vchat.base.faces import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "VisualChat": "visual_chat",
            "VisualChatConfig": "config",
        },
    )

__all__ = ["VisualChat", "VisualChatConfig"]
