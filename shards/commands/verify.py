"""`vchat-shards verify`: read everything and list each defect."""

from __future__ import annotations

import click

from vchat.base.terminal_text import echo
from vchat.shards.commands.options import SHARDS


@click.command("verify")
@SHARDS
def command(shards: str) -> int:
    """Read everything and list each defect; exits with 1 if there is any.

    Checks the SHA-256 of every file, every value of manifest and index, the checksum and offset of
    every member, that each image has its slot, and that each text, encoded again, gives the ids.
    """
    from vchat.base.progress import show_progress
    from vchat.shards.format.manifest_schema import ManifestError
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.inspect.verification import find_defects

    try:
        opened = open_shards(shards)
    except ManifestError as error:
        for line in error.defects:
            echo(line)
        echo(f"{shards}: {len(error.defects)} defects of the manifest; nothing else was read")
        return 1
    listed, num_defects = opened.manifest["shards"], 0
    with show_progress("verifying", total=len(listed), unit="shards") as advance:
        for defect in find_defects(opened, shard_done=advance):
            num_defects += 1
            echo(defect)
    num_samples = sum(shard["samples"] for shard in listed)
    echo(f"{num_samples} samples in {len(listed)} shards: {num_defects or 'no'} defects")
    return 1 if num_defects else 0
