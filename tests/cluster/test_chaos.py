"""The short form of the chaos job, as a user runs it: a real cluster, real processes, real SIGKILLs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

JOB = Path(__file__).parents[2] / "jobs" / "chaos.py"


def test_nothing_acknowledged_is_lost_whatever_dies(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(JOB),
            "--minutes",
            "0.8",
            "--seed",
            "11",
            "--every",
            "3",
            "--json",
            "--folder",
            str(tmp_path / "chaos"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["lost"], told["doubled"], told["misordered"]) == (0, 0, 0)
    assert (told["returned"], told["unseen"], told["early"], told["holes"], told["strange"]) == (0, 0, 0, 0, 0)
    assert told["acknowledged"] > 1000
    assert sum(told["faults"].values()) >= 5
    assert sum(gap["n"] for gap in told["gaps_ms"].values()) >= 3, "leaders were hit, and acknowledged again"
