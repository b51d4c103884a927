"""Arguments and options that several commands of training share.

Those that chat has too are in `vchat.train.chat.commands.options`.
"""

from __future__ import annotations

from pathlib import Path

import click

RUN_FILE = click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))

SETTINGS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Replace one setting of RUN.toml; may be repeated.",
)

AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of a table."
)
