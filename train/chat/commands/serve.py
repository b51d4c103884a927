"""`vchat-chat serve`: a web page and an OpenAI-compatible endpoint, on loopback by default."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import click

from vchat.base.imports import pause_collection
from vchat.base.terminal_text import echo
from vchat.train.chat.commands.options import CHECKPOINT, DEVICE, SYSTEM

LOOPBACK = ("localhost", "127.0.0.1")
EVERYWHERE = ("0.0.0.0", "::")


@click.command("serve")
@CHECKPOINT
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="0 takes any free port.")
@click.option(
    "--max-new-tokens", default=256, show_default=True, help="Default of requests without a limit."
)
@SYSTEM
@click.option(
    "--sessions",
    default=4,
    show_default=True,
    help="Number of recent dialogues whose KV caches are kept.",
)
@click.option(
    "--image-memory-mb",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="Size of the cache of image states, shared by all dialogues (mmca only).",
)
@DEVICE
def command(
    checkpoint: Path,
    host: str,
    port: int,
    max_new_tokens: int,
    system: str | None,
    sessions: int,
    image_memory_mb: int,
    device: str | None,
) -> None:
    """Serve a chat: a web page at /, and POST /v1/chat/completions.

    Images come as data URIs. There is no password: whoever reaches the address can use it.
    """
    _require_extra()
    listening = _listen(host, port)
    import uvicorn

    with pause_collection():
        from vchat.train.chat.chat_model import load_chat_model
        from vchat.train.chat.generation import Sampling
        from vchat.train.chat.server import ChatServer
        from vchat.train.chat.service import ChatService

    default = Sampling(max_new_tokens=max_new_tokens)
    chat_model, opened = load_chat_model(checkpoint, device=device, system=system)
    chat_model.image_cache.max_bytes = image_memory_mb << 20
    service = ChatService(chat_model, num_sessions=sessions)
    server = ChatServer(service, name=opened.folder.name, default=default)
    app = server.app(hosts=["*"] if host in EVERYWHERE else [*LOOPBACK, host])
    shown = "127.0.0.1" if host in EVERYWHERE else host
    echo(f"{opened.folder} at http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C stops)")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


def _require_extra() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed: pip install 'vchat[serve]'")


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port, before the model loads, so that an error comes at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as err:
        raise ValueError(f"cannot listen on {host} port {port}: {err}") from err
