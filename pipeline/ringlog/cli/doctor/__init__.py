"""doctor: is everything that a pipeline needs here, and does it do what it must?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ringlog.cli import show
from ringlog.cli.doctor import disk, ray, stores
from ringlog.cli.doctor.finding import Finding
from ringlog.client.current import settings_of
from ringlog.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(
    root: Annotated[str | None, typer.Option(help="Look at this root; default: the running pipeline's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Check root, metadata store, clock, journals of this machine, Ray and the pipeline; exit code 1 if one fails."""
    findings = []
    with show.errors.status("looking at Ray") as progress:
        for finding in examine(root):
            findings.append(finding)
            progress.update(f"looked at {finding.name}")
    failed = any(finding.state == "fail" for finding in findings)
    if json:
        show.json_line({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        show.console.print(as_table(findings))
    if failed:
        raise typer.Exit(1)


def examine(root: str | None) -> Iterator[Finding]:
    """One finding after the other. The settings are the running pipeline's, unless ``root`` is another than its own."""
    running = yield from ray.look()
    if running is not None and root in (None, running.settings.root):
        yield from look(running.settings)
    else:
        yield from look(settings_of(root))


def look(settings: Settings) -> Iterator[Finding]:
    """What can be said without Ray."""
    yield from stores.root(settings)
    yield stores.clock(settings)
    yield from disk.journal_dir(settings)
    yield disk.journals(settings)


def as_table(findings: list[Finding]) -> Table:
    """For people: what is well in one line, what is not with what to do."""
    shown = Table()
    for column in ("", "what", "seen", "to do"):
        shown.add_column(column, overflow="fold")
    for one in findings:
        style = _STYLES[one.state]
        shown.add_row(
            Text(one.state, style), one.name, Text(show.plain(one.seen)), Text(show.plain(one.to_do), style=style)
        )
    return shown


COMMANDS = (doctor,)
