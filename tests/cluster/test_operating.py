"""What an operator does: looks at a pipeline, and opens a shard whose journals are lost."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

import ringlog
from waiting import eventually

pytestmark = pytest.mark.cluster

SHARD = "shard-0"
WITHIN_S = 120


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "COLUMNS": "250"}


def run(*arguments: str) -> tuple[int, str]:
    """`ringlog …` as an operator runs it: its exit code, and what it prints."""
    command = [str(Path(sys.executable).with_name("ringlog")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_S, env=environment())
    return done.returncode, done.stdout + done.stderr


def condition(shard: str = SHARD) -> str:
    return str(ringlog.status()["shards"][shard]["condition"])


def caught_up() -> bool:
    """Whether every member has what only a majority must have."""
    shards = ringlog.status()["shards"].values()
    return all(
        len(shard["members"]) == 3 and all(member["end"] == shard["committed"] for member in shard["members"].values())
        for shard in shards
    )


def test_the_live_view_ends_with_ctrl_c_and_that_is_a_success(pipeline: ringlog.Pipeline) -> None:
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("ringlog")), "status", "--watch", "0.2"]
    watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment())
    os.close(theirs)
    seen = b""
    while seen.count(b"held bytes") < 3:  # it looked three times
        seen += os.read(ours, 65536)
    watching.send_signal(signal.SIGINT)
    try:
        while more := os.read(ours, 65536):
            seen += more
    except OSError:
        pass  # how a pty says that the other end is closed
    assert watching.wait(WITHIN_S) == 0
    os.close(ours)
    assert b"complete" in seen
    assert b"Traceback" not in seen


def test_a_healthy_pipeline_passes_every_check(pipeline: ringlog.Pipeline) -> None:
    told = ""

    def healthy() -> bool:
        nonlocal told
        code, told = run("doctor", "--json")
        return code == 0

    eventually(healthy)
    findings = {finding["name"]: finding for finding in json.loads(told)["findings"]}
    well = ["Ray", "Ray cluster", "pipeline", "archive", "data plane", "root", "table", "metadata store", "journals"]
    assert {name: findings[name]["state"] for name in well} == dict.fromkeys(well, "ok")
    assert findings["root"]["seen"].startswith(pipeline.status()["root"])
    assert findings["journals"]["seen"].startswith("9 in "), "those of the pipeline, not those of the settings here"

    def whole() -> bool:
        code, told = run("recover")
        return (code, told.count("complete")) == (0, 3)

    eventually(whole)


def test_a_shard_that_lost_a_majority_of_its_journals_opens_on_an_operators_word(pipeline: ringlog.Pipeline) -> None:
    bodies = [f"record {number}" for number in range(300)]
    ringlog.submit_logs([{"body": body, "service": body} for body in bodies])
    eventually(caught_up)
    folders = Path(pipeline.status()["journal_dir"])
    victims: dict[str, int] = {}

    def found() -> bool:
        victims.update({actor: ringlog.status()["actors"][actor]["pid"] for actor in ("shard-0", "shard-1")})
        return True

    eventually(found)
    for pid in victims.values():
        os.kill(pid, signal.SIGSTOP)  # so that nothing is written while the disks are lost
    for actor, pid in victims.items():
        (lost,) = folders.glob(f"*/{actor}/{SHARD}")
        shutil.rmtree(lost)
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: condition() == "unavailable" and ringlog.status()["shards"][SHARD]["leader"] is None)
    for shard in ("shard-1", "shard-2"):
        eventually(lambda shard=shard: condition(shard) == "complete")  # type: ignore[misc]
    code, told = run("recover")
    assert code == 1
    assert f"{SHARD} is UNAVAILABLE: 1 of the 2 journals that it needs can be read" in told
    assert f"ringlog recover --accept-loss {SHARD}" in told
    assert run("doctor")[0] == 1
    assert run("recover", "--accept-loss", SHARD)[0] == 1, "nobody confirmed it"
    assert condition() == "unavailable"

    code, told = run("recover", "--accept-loss", SHARD, "--yes", "--json")
    assert code == 0, told
    accepted = json.loads(told.splitlines()[0])
    ((epoch, start),) = accepted["gaps"]
    assert accepted == {"shard": SHARD, "epoch": epoch, "gaps": [[epoch, start]]}
    eventually(lambda: condition() == "complete")
    assert run("recover")[0] == 0
    assert f"{SHARD} has a gap: at offset {start} and above" in run("status")[1]
    for archived in (False, True):
        if archived:
            ringlog.flush()
        gaps = ringlog.sql("SELECT shard, record_offset FROM logs WHERE event_name = 'ringlog.gap'").fetchall()
        assert gaps == [(SHARD, start)]
        found = {body for (body,) in ringlog.sql("SELECT body FROM logs").fetchall()}
        assert set(bodies) <= found, "the third journal had all of it"
    assert ringlog.submit_logs([{"body": "after", "service": body} for body in bodies]).records == 300
