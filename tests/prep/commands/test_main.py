"""The list of commands and the commands themselves agree."""

import click
import pytest

from vchat.prep.commands.main import group


@pytest.mark.parametrize("name", group.list_commands(click.Context(group)))
def test_a_command_has_the_name_and_the_first_line_that_the_list_shows(name):
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.help is not None
    _, _, listing = group.get_help(click.Context(group)).partition("Commands:")
    words = " ".join(listing.split())
    assert command.name == name
    assert f"{name} {command.help.splitlines()[0]}" in words
