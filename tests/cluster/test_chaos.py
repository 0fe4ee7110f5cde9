"""The short form of the chaos job, as a user runs it: a real cluster, real servers and processes, real SIGKILLs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

JOB = Path(__file__).parents[2] / "jobs" / "chaos.py"
HANGS_S = 500
pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.timeout(HANGS_S + 30)]


def chaos(folder: Path, *options: str) -> dict[str, Any]:
    """What a run tells, which must have been a good one."""
    command = [sys.executable, str(JOB), "--json", "--metadata=etcd", f"--folder={folder}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (told["lost"], told["doubled"], told["misordered"]) == (0, 0, 0)
    assert (told["returned"], told["unseen"], told["early"], told["holes"], told["strange"]) == (0, 0, 0, 0, 0)
    assert told["acknowledged"] > 1000
    assert sum(gap["n"] for gap in told["gaps_ms"].values()) >= 3, "leaders were hit, and acknowledged again"
    return told


@pytest.mark.s3
def test_nothing_acknowledged_is_lost_whatever_dies(tmp_path: Path) -> None:
    told = chaos(tmp_path, "--minutes=0.8", "--seed=104", "--every=2.5", "--kinds-min=6", "--root=s3")
    assert sum(told["faults"].values()) >= 6
    assert len(told["faults"]) >= 5, "of several kinds"


def test_nothing_acknowledged_is_lost_when_the_network_falls_apart(tmp_path: Path) -> None:
    """Each node in a network of its own, on which links are cut: leaders without a majority, and two equal halves."""
    told = chaos(
        tmp_path,
        "--minutes=0.6",
        "--seed=3",
        "--every=6",
        "--kinds-min=2",
        "--network=namespaces",
        "--faults=cut_node,cut_half",
    )
    assert set(told["faults"]) == {"cut_node", "cut_half"}
