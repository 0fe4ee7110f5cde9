"""Looking at journals without touching them, also while a process writes them: no lock, no repair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ringlog.errors import CorruptionError
from ringlog.storage.entries import SUFFIX, needed, read_log
from ringlog.storage.journal import FAILED, LOST, STATE, read_state

ATTEMPTS = 5
"""How often a journal is read anew because its process trimmed or replaced it meanwhile."""


@dataclass(frozen=True)
class JournalReport:
    """What stands in ``folder``: the entries ``[trimmed, end)`` of ``shard``, all of which read back.

    ``set_aside`` are the folders with what an earlier process found there and could not trust.
    """

    folder: Path
    shard: str
    id: str
    trimmed: int
    end: int
    set_aside: tuple[Path, ...]


def find_journals(journal_dir: Path, pipeline: str = "*") -> Iterator[Path]:
    """The folders of this machine's journals, of all pipelines or one: ``<journal_dir>/<pipeline>/<actor>/<shard>``."""
    for folder in sorted(journal_dir.glob(f"{pipeline}/*/*")):
        if folder.is_dir():
            yield folder


def inspect(folder: Path) -> JournalReport | None:
    """Read the whole journal in ``folder``; None where there is none. Raises `CorruptionError` and `OSError`."""
    for _ in range(ATTEMPTS - 1):
        before = read_state(folder / STATE)
        try:
            return _inspect(folder)
        except (CorruptionError, FileNotFoundError):
            if read_state(folder / STATE) == before:  # nobody was at work there: it is as it looks
                raise
    return _inspect(folder)


def _inspect(folder: Path) -> JournalReport | None:
    kept = read_state(folder / STATE)
    set_aside = tuple(sorted(path for path in folder.glob(f"{LOST}*") if path.is_dir()))
    if kept is None:
        if any(folder.glob(f"*{SUFFIX}")):
            raise CorruptionError(f"{folder} has entries but no {STATE}")
        return JournalReport(folder, folder.name, "", 0, 0, set_aside) if set_aside else None
    if (folder / FAILED).exists():
        raise CorruptionError(f"a sync of {folder} failed, so the disk may lack what the kernel shows")
    end = kept["trimmed"]
    paths = sorted(folder.glob(f"{kept['generation']:08d}-*{SUFFIX}"))
    for entry in read_log(needed(paths, kept["trimmed"]), kept["trimmed"], skip=not kept["closed"]):
        end = entry.end
    if kept["closed"] and end != kept["end"]:
        raise CorruptionError(f"{folder} was closed with entries up to {kept['end']}, and ends at {end}")
    return JournalReport(folder, kept["shard"], kept["id"], kept["trimmed"], end, set_aside)
