"""What all commands share: exit codes, one-line errors, groups that import a command on use.

Exit codes: 0 done, 1 failed (bad data, full disk), 2 wrong use (a flag or a configuration key).
`--help` and `--version` stay fast: a command's module is imported only when that command runs.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Mapping

import click

from vchat.base.nearest import did_you_mean
from vchat.base.terminal_text import SafeFormatter, echo
from vchat.base.version import __version__


class WrongUse(ValueError):
    """A flag, name or configuration key that cannot be meant: the command exits with 2."""


class LazyGroup(click.Group):
    """A group that imports a command when it runs; all have `-h`, `--version` and suggestions."""

    def __init__(self, *args: object, lazy: Mapping[str, tuple[str, str]], **kwargs: object):
        """Define the commands without importing them.

        Args:
            args: As for `click.Group`.
            lazy: Command name -> (`module:attribute`, one line of help).
            kwargs: As for `click.Group`.
        """
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._lazy = dict(lazy)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        _add_version_flag(self)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names; a wrong name gets a suggestion."""
        name = args[0]
        if name not in self._lazy and not name.startswith("-"):
            ctx.fail(f"no command {name!r}; {did_you_mean(name, self._lazy)}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order given, which is that of the help text."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is none of that name."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _add_version_flag(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from their one-line help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


def _add_version_flag(command: click.Command) -> None:
    """Let `--version` of a group and of each of its commands print the version of the package."""
    if all("--version" not in parameter.opts for parameter in command.params):
        click.version_option(__version__, message="%(prog)s %(version)s")(command)


def run_command(command: click.Command) -> None:
    """Run a command line and exit: bad input gives one clear line, not a traceback.

    `VCHAT_TRACEBACK=1` in the environment shows the traceback as well.
    """
    lines = logging.StreamHandler()
    lines.setFormatter(SafeFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[lines])
    logging.getLogger("vchat").setLevel(logging.INFO)
    try:
        sys.exit(command(standalone_mode=False) or 0)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        echo(shown.getvalue().rstrip("\n"), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("VCHAT_TRACEBACK") == "1":
            raise
        echo(f"error: {_describe_error(error)}", err=True)
        sys.exit(2 if isinstance(error, WrongUse) else 1)


def _describe_error(error: Exception) -> str:
    """Return what an error says; those that say nothing are named."""
    if isinstance(error, MemoryError):
        return f"out of memory {error}".rstrip()
    return str(error) or f"{type(error).__name__} without a message"
