"""VisualChat: public image-text data to ready shards, shards to a model that chats about images."""

from vchat.base.version import __version__ as __version__
