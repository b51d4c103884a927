"""`vchat-chat`: talk with a checkpoint in the terminal, or `serve` it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vchat.base.cli import LazyGroup, run_command
from vchat.base.imports import pause_collection
from vchat.base.terminal_text import echo
from vchat.train.chat.commands.options import CHECKPOINT_HELP, DEVICE, SYSTEM


@click.group(
    "vchat-chat",
    cls=LazyGroup,
    lazy={"serve": ("vchat.train.chat.commands.serve:command", "A web page and an HTTP endpoint.")},
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help=CHECKPOINT_HELP)
@click.option(
    "--temperature",
    default=0.0,
    show_default=True,
    help="0 is greedy; 1 samples from the model's distribution.",
)
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    help="Sample from the fewest tokens whose probabilities sum to this.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=-1, max=2**63 - 1),
    help="Seed of sampling: equal questions get equal answers. By default, or with -1, fresh.",
)
@click.option("--max-new-tokens", default=256, show_default=True, help="Most tokens of an answer.")
@SYSTEM
@DEVICE
@click.pass_context
def chat(
    context: click.Context,
    checkpoint: Path | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    max_new_tokens: int,
    system: str | None,
    device: str | None,
) -> None:
    """Talk with a trained model about images.

    Lines are questions, or /image PATH, /clear, /help, /quit. From a pipe, one line each:

    \b
        printf '/image a.jpg\\nWhat is this?\\n' | vchat-chat --checkpoint out
    """
    if context.invoked_subcommand is not None:
        if checkpoint is not None:
            raise click.UsageError(f"options come after the word {context.invoked_subcommand}")
        return
    if checkpoint is None:
        raise click.UsageError("missing option '--checkpoint'")
    if sys.stdin.isatty():
        echo(f"loading {checkpoint} ...", err=True)
    with pause_collection():
        from vchat.train.chat.chat_model import load_chat_model
        from vchat.train.chat.generation import Sampling
        from vchat.train.chat.session import ChatSession
        from vchat.train.chat.terminal import talk

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    chat_model, opened = load_chat_model(checkpoint, device=device, system=system)
    session = ChatSession(chat_model, sampling=sampling, seed=None if seed == -1 else seed)
    talk(session, greeting=f"{opened.folder}, step {opened.step}. /help lists the commands.")


def main() -> None:
    """The console script `vchat-chat`."""
    run_command(chat)
