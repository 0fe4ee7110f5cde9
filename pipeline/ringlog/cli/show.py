"""How things look on a terminal, and what never reaches one: control characters that somebody logged."""

from __future__ import annotations

import datetime
import re
import sys
from typing import Any

import orjson
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

console = Console()
errors = Console(stderr=True)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = ((21, "bold red"), (17, "red"), (13, "yellow"), (9, ""), (0, "dim"))


def plain(text: str) -> str:
    """``text`` without the control characters that move a cursor or paint a screen; newline and tab stay.

    >>> plain("a\\x1b[31mred")
    'a\\ufffd[31mred'
    """
    return _CONTROL.sub("\ufffd", text)


def json_line(value: Any) -> None:
    """One JSON object, on one line of stdout."""
    sys.stdout.write(orjson.dumps(value, default=_jsonable).decode() + "\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)


def records(batch: pa.RecordBatch, raw: bool = False) -> None:
    """Records as lines: time, severity, service, body."""
    for row in batch.select(["timestamp", "severity_number", "severity_text", "service", "body"]).to_pylist():
        clean = (lambda text: text) if raw else plain
        moment = row["timestamp"].strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        number = row["severity_number"] or 0
        line = Text(f"{moment} ", style="dim")
        line.append(f"{clean(row['severity_text'] or '-'):<8}", style=next(s for low, s in _STYLES if number >= low))
        line.append(f"{clean(row['service'] or '-')} ", style="cyan")
        line.append(clean(row["body"] or ""))
        console.print(line, soft_wrap=True)


def table(columns: list[str], rows: list[tuple[Any, ...]], title: str | None = None) -> None:
    """Print a table for people."""
    console.print(as_table(columns, rows, title))


def as_table(columns: list[str], rows: list[tuple[Any, ...]], title: str | None = None) -> Table:
    """A table for people."""
    shown = Table(title=title, title_justify="left")
    for name in columns:
        shown.add_column(plain(name), overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if value is None else plain(str(value))) for value in row))
    return shown


def byte_progress() -> Progress:
    """A progress bar in bytes, on stderr."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=errors
    )
