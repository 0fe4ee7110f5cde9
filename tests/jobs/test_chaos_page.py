"""docs/CHAOS.md says what makes each fault happen: all of that is there."""

from __future__ import annotations

import re
from pathlib import Path

from chaos_nemesis import FAULTS
from ringlog.simulation.faults import BEYOND, KINDS

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "CHAOS.md").read_text()
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## What must be survived")[2].splitlines()
    if line.startswith("|")
][2:]


def names(column: int) -> set[str]:
    return {name for row in TABLE for name in re.split(r"[,;] ", row[column]) if name}


def test_every_fault_is_made_to_happen_by_something() -> None:
    assert len(TABLE) >= 20
    assert [row[0] for row in TABLE if not any(row[1:])] == []


def test_every_test_that_is_named_is_there() -> None:
    tests = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) >= 20
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_every_kind_of_the_job_and_of_the_simulator_is_in_the_table() -> None:
    of_job = {name.split(" ")[0] for name in names(1)}
    assert set(FAULTS) - of_job == set()
    assert names(2) - {*KINDS, BEYOND} == set()
    assert set(KINDS) - names(2) == {"slow disk", "clocks", "compaction"}, "nothing that is lost by itself"
