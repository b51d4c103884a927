"""Options that several commands share, with their help written once."""

from __future__ import annotations

from pathlib import Path

import click

CHECKPOINT_HELP = "A step folder, or a run's folder: then its newest checkpoint."

CHECKPOINT = click.option(
    "--checkpoint", required=True, type=click.Path(path_type=Path), help=CHECKPOINT_HELP
)
DEVICE = click.option("--device", help="Such as cpu or cuda:0; by default a GPU if there is one.")
SYSTEM = click.option("--system", help="Another system text than that of training.")
