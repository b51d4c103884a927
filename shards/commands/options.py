"""Arguments and options that several commands share."""

from __future__ import annotations

import click

SHARDS = click.argument("shards")
SPLIT = click.option("--split", help="Only this split (train, eval). Default: all.")
SOURCE = click.option("--source", help="Only this source. Default: all.")
