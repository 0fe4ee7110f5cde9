"""Tests that are read: prose, commands, and below each command exactly what came of it.

A transcript is a text file. A line that begins with ``> `` is a command, the indented lines after it are its output, and
everything else is prose that says what one sees and why it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

PROMPT = "> "
INDENT = "    "


def replay(text: str, execute: Callable[[str], Iterable[str]]) -> str:
    """The transcript ``text`` with the output that its commands have now.

    >>> print(replay("An echo:\\n> one two\\n    three", str.split))
    An echo:
    > one two
        one
        two
    """
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith(INDENT):
            lines.append(line)
        if line.startswith(PROMPT):
            lines.extend(INDENT + output for output in execute(line.removeprefix(PROMPT)))
    return "\n".join(lines)
