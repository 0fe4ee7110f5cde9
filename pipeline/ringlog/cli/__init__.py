"""The command line: ``ringlog --help``."""

from __future__ import annotations

import sys

import typer

from ringlog.cli import bench, demo, doctor, maintain, operate, read, recover, schema, shards, status, write
from ringlog.cli.show import errors
from ringlog.errors import RinglogError

app = typer.Typer(
    help="Replicated logs for a Ray cluster: acknowledged means on a majority's disks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for module in (operate, status, shards, recover, doctor, write, read, schema, maintain, demo, bench):
    for command in module.COMMANDS:
        app.command()(command)


def main() -> None:
    """Run one command; exit code 0 only when it did what it says."""
    try:
        app()
    except RinglogError as error:
        errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(1)
