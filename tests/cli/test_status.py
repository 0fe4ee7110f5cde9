"""What an operator reads: the status, and what `ringlog recover` explains."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ringlog.cli import app
from ringlog.cli.recover import explanation
from ringlog.cli.status import overview
from ringlog.errors import ConfigurationError, Conflict


def shard(**changes: Any) -> dict[str, Any]:
    """One that is led and complete."""
    return {
        "leader": "shard-0",
        "epoch": 3,
        "committed": 40,
        "archived": 30,
        "held_bytes": 1200,
        "members": {"shard-0": {"id": "a", "end": 40}, "shard-1": {"id": "b", "end": 39}},
        "trouble": None,
        "condition": "complete",
        "answering": 2,
        "needed": 2,
        "missing": [],
        "waits_for": None,
        "gaps": [],
        "retiring": False,
        **changes,
    }


LOST = shard(
    leader=None,
    condition="unavailable",
    answering=1,
    missing=[
        {"actor": "shard-1", "id": "b-journal", "why": "no answer"},
        {"actor": "shard-2", "id": "c-journal", "why": "another journal"},
    ],
    waits_for="1 of 2 needed seals; no answer from shard-1, shard-2",
    trouble="Unavailable: gave no answer",
)


def found(
    metadata_trouble: str | None = None,
    archive_trouble: str | None = None,
    housekeeping_trouble: str | None = None,
    **shards: Any,
) -> dict[str, Any]:
    return {
        "housekeeping_trouble": housekeeping_trouble,
        "root": "/data/\x1b[2Jroot",
        "metadata_trouble": metadata_trouble,
        "shards": {name.replace("_", "-"): one for name, one in shards.items()},
        "actors": {"shard-0": {"archive_trouble": archive_trouble}},
        "lingering": [],
    }


def shown(*lines: Any) -> str:
    console = Console(width=250, file=io.StringIO())
    for line in lines:
        console.print(line, soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_healthy_pipeline_is_one_line_for_each_shard() -> None:
    lines = shown(overview(found(shard_0=shard(), shard_1=shard(leader="shard-1")))).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows[0] == [
        "shard-0",
        "complete",
        "shard-0",
        "3",
        "40",
        "30",
        "10",
        "1200",
        "shard-0@40 shard-1@39",
        "",
    ]
    assert len(rows) == 2
    assert lines[0] == "root /data/\ufffd[2Jroot", "control characters never reach the terminal"


def test_trouble_and_gaps_stand_below() -> None:
    text = shown(
        overview(
            found(
                metadata_trouble="the metadata store gives no answer in 3 s",
                archive_trouble="Unavailable: the bucket is away",
                housekeeping_trouble="CorruptionError: a segment does not read back",
                shard_0=LOST,
                shard_1=shard(gaps=[[3, 10]]),
                shard_2=shard(gaps=None),
            )
        )
    )
    assert "shard-0 is UNAVAILABLE: `ringlog recover` says what it needs" in text
    assert "shard-1 has a gap: at offset 10 and above, records that epochs before 3 had acknowledged may be" in text
    assert "shard-0 cannot archive: Unavailable: the bucket is away" in text
    assert "the metadata store gives no answer in 3 s" in text
    assert "the table is not kept small: CorruptionError: a segment does not read back" in text


def test_recover_explains_each_condition() -> None:
    assert shown(*explanation("shard-0", shard())) == "shard-0 is led by shard-0 in epoch 3, complete\n"
    short = shard(condition="incomplete", missing=[{"actor": "shard-1", "id": "b", "why": "no answer"}])
    assert "with 2 members; it is completed once all answer (missing: shard-1)" in shown(*explanation("s", short))
    opening = shard(leader=None, condition="opening", waits_for="the table")
    assert shown(*explanation("shard-0", opening)) == "shard-0 is about to open; it waits for the table\n"
    assert "(an accepted loss)" in shown(*explanation("shard-0", shard(gaps=[[3, 10]])))


def test_recover_says_what_an_unavailable_shard_needs_and_what_it_would_cost_to_go_on() -> None:
    assert shown(*explanation("shard-0", LOST)).splitlines() == [
        "shard-0 is UNAVAILABLE: 1 of the 2 journals that it needs can be read",
        "  shard-1: its shard actor does not answer (journal b-journal)",
        "  shard-2: its shard actor came back with another journal: this one is elsewhere, set aside, or gone "
        "(journal c-journal)",
        "  Its takeover waits for 1 of 2 needed seals; no answer from shard-1, shard-2.",
        "  Start those nodes again, with their disks: that loses nothing, and the shard then opens by itself.",
        "  Only if they never come back, and what they alone hold may be lost for good:",
        "    ringlog recover --accept-loss shard-0",
    ]


class Running:
    """A pipeline whose shard-0 is lost, until somebody accepts it; ``heals``: enough answers after all."""

    def __init__(self, heals: bool = False, metadata_trouble: str | None = None) -> None:
        self.accepted: list[str] = []
        self._heals, self._metadata_trouble = heals, metadata_trouble

    def status(self) -> dict[str, Any]:
        if not self.accepted:
            return found(shard_0=LOST, shard_1=shard())
        gaps = None if self._metadata_trouble else [] if self._heals else [[4, 10]]
        return found(self._metadata_trouble, shard_0=shard(epoch=4, gaps=gaps), shard_1=shard())

    def accept_loss(self, name: str) -> int:
        self.accepted.append(name)
        return 4


def recover(running: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str, said: str = "") -> tuple[int, str, str]:
    monkeypatch.setattr("ringlog.cli.recover.cluster.join_ray", lambda **_: None)
    monkeypatch.setattr("ringlog.cli.recover.cluster.connect", lambda: running)
    monkeypatch.setenv("COLUMNS", "250")
    done = CliRunner().invoke(app, ["recover", *arguments], input=said)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_recover_fails_until_every_shard_is_led(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    code, out, _ = recover(running, monkeypatch)
    assert code == 1
    assert "shard-0 is UNAVAILABLE" in out
    assert "shard-1 is led by shard-0" in out
    code, out, _ = recover(running, monkeypatch, "--json")
    assert code == 1
    assert orjson.loads(out)["shards"]["shard-0"]["missing"][0]["actor"] == "shard-1"
    running.accepted.append("shard-0")
    assert recover(running, monkeypatch)[0] == 0


def test_a_leader_that_reaches_no_majority_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    monkeypatch.setattr(running, "status", lambda: found(shard_0={**LOST, "leader": "shard-0"}))
    assert recover(running, monkeypatch)[0] == 1


def test_a_loss_is_accepted_only_on_an_operators_word(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    code, _, err = recover(running, monkeypatch, "--accept-loss", "shard-0", said="n\n")
    assert (code, running.accepted) == (1, [])
    assert "lose for good" in err
    assert recover(running, monkeypatch, "--accept-loss", "shard-0")[0] == 1, "nobody there to say so"
    assert running.accepted == []
    code, out, err = recover(running, monkeypatch, "--accept-loss", "shard-0", said="y\n")
    assert (code, running.accepted) == (0, ["shard-0"])
    assert "shard-0 is open, in epoch 4" in out
    assert "shard-0 has a gap: at offset 10 and above, records that epochs before 4" in out
    assert "whose event_name is 'ringlog.gap'" in out


def test_what_was_lost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = recover(Running(), monkeypatch, "--accept-loss", "shard-0", "--yes", "--json")
    assert (code, orjson.loads(out)) == (0, {"shard": "shard-0", "epoch": 4, "gaps": [[4, 10]]})
    code, out, _ = recover(Running(heals=True), monkeypatch, "--accept-loss", "shard-0", "--yes")
    assert "nothing was lost: enough of its journals answered after all" in out
    away = Running(metadata_trouble="the metadata store gives no answer in 3 s")
    code, out, _ = recover(away, monkeypatch, "--accept-loss", "shard-0", "--yes")
    assert "what was lost cannot be shown now: the metadata store gives no answer" in out


def test_nothing_is_given_up_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    with pytest.raises(Conflict, match="shard-1 is led by shard-0: there is nothing to give up"):
        recover(running, monkeypatch, "--accept-loss", "shard-1", "--yes")
    with pytest.raises(ConfigurationError, match="there is no shard-9: the shards are shard-0, shard-1"):
        recover(running, monkeypatch, "--accept-loss", "shard-9", "--yes")
    assert running.accepted == []


def test_seconds_say_how_often_to_look_and_nothing_else() -> None:
    done = CliRunner().invoke(app, ["status", "5"])
    assert done.exit_code == 2
    assert "add --watch" in done.stderr
