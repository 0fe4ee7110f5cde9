"""What an operator reads: the status, and what `ringlog recover` explains."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ringlog.cli import app
from ringlog.cli.recover import explained
from ringlog.cli.status import overview
from ringlog.errors import ConfigurationError, Conflict, Unavailable


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
        "crowded": [],
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
WAITS = "shard-1 waits for its journals, on host-b: start that node again, and nothing is lost"
FORBIDDEN = "not allowed to read s3://[red]logs: \x1b[2Jno credentials"
SHOWN_FORBIDDEN = FORBIDDEN.replace("\x1b", "\ufffd")

SHORT = shard(condition="incomplete", missing=[{"actor": "shard-1", "id": "b", "why": "no answer"}])
OPENING = shard(leader=None, condition="opening", waits_for="the table")


def found(
    metadata_trouble: str | None = None,
    archive_trouble: str | None = None,
    housekeeping_trouble: str | None = None,
    plan_trouble: str | None = None,
    away: dict[str, str] | None = None,
    **shards: Any,
) -> dict[str, Any]:
    return {
        "housekeeping_trouble": housekeeping_trouble,
        "root": "/data/\x1b[2Jroot",
        "metadata_trouble": metadata_trouble,
        "shards": {name.replace("_", "-"): one for name, one in shards.items()},
        "actors": {"shard-0": {"archive_trouble": archive_trouble}},
        "lingering": [],
        "plan_trouble": plan_trouble,
        "away": away or {},
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


def test_what_the_controller_cannot_do_is_one_line_each() -> None:
    hindered = found(plan_trouble=FORBIDDEN, away={"shard-1": WAITS, "shard-2": FORBIDDEN}, shard_0=shard())
    assert shown(overview(hindered)).splitlines()[-3:] == [
        f"whether there should be other shards by now is not known: {SHOWN_FORBIDDEN}",
        WAITS,
        f"shard-2: {SHOWN_FORBIDDEN}",
    ]
    assert "which shards there should be is not known: no answer" in shown(overview(found(plan_trouble="no answer")))


def test_status_in_json_is_all_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    hindered = found(plan_trouble=FORBIDDEN, away={"shard-1": WAITS})
    monkeypatch.setattr("ringlog.status", lambda: hindered)
    assert orjson.loads(CliRunner().invoke(app, ["status", "--json"]).stdout) == hindered


def explanation(one: dict[str, Any], **known: Any) -> list[str]:
    """What `ringlog recover` says where this is shard-0, line by line."""
    return shown(*explained(found(shard_0=one, **known), ["shard-0"])).splitlines()


def test_recover_explains_each_condition() -> None:
    assert explanation(shard()) == ["shard-0 is led by shard-0 in epoch 3, complete"]
    assert explanation(shard(crowded=["shard-2"])) == [
        "shard-0 is led by shard-0 in epoch 3, complete with 2 copies: add a node, and shard-2 moves there"
    ]
    (line,) = explanation(SHORT)
    assert line.endswith("with 2 members; it is completed once all answer (missing: shard-1)")
    assert explanation(OPENING) == ["shard-0 is about to open; it waits for the table"]
    assert "(an accepted loss)" in explanation(shard(gaps=[[3, 10]]))[-1]


def test_recover_says_why_an_actor_is_away_also_where_no_shard_has_it() -> None:
    away = {"shard-1": WAITS, "shard-7": FORBIDDEN}
    assert explanation(SHORT, away=away)[1:] == [f"  {WAITS} (journal b)", f"shard-7: {SHOWN_FORBIDDEN}"]
    assert explanation(OPENING, away=away)[1:] == [WAITS, f"shard-7: {SHOWN_FORBIDDEN}"]


def test_recover_says_what_an_unavailable_shard_needs_and_what_it_would_cost_to_go_on() -> None:
    assert explanation(LOST) == [
        "shard-0 is UNAVAILABLE: 1 of the 2 journals that it needs can be read",
        "  shard-1: its shard actor does not answer (journal b-journal)",
        "  shard-2: its shard actor came back with another journal: this one is elsewhere, set aside, or gone "
        "(journal c-journal)",
        "  Its takeover waits for 1 of 2 needed seals; no answer from shard-1, shard-2.",
        "  Start those nodes again, with their disks: that loses nothing, and the shard then opens by itself.",
        "  Only if they never come back, and what they alone hold may be lost for good:",
        "    ringlog recover --accept-loss shard-0",
    ]


def test_what_can_be_seen_to_without_a_loss_comes_first() -> None:
    assert explanation(LOST, away={"shard-1": WAITS}) == [
        "shard-0 is UNAVAILABLE: 1 of the 2 journals that it needs can be read",
        f"  {WAITS} (journal b-journal)",
        "  shard-2: its shard actor came back with another journal: this one is elsewhere, set aside, or gone "
        "(journal c-journal)",
        "  Its takeover waits for 1 of 2 needed seals; no answer from shard-1, shard-2.",
        "  See first to what is said above, and start nodes that are gone again, with their disks: that loses nothing, "
        "and the shard then opens by itself.",
        "  As a last resort, only if the journals never come back whatever is done, and what they alone hold may be lost "
        "for good:",
        "    ringlog recover --accept-loss shard-0",
    ]
    lines = explanation(LOST, plan_trouble=FORBIDDEN)
    assert lines[0] == f"whether there should be other shards by now is not known: {SHOWN_FORBIDDEN}"
    assert lines[-3].startswith("  See first to what is said above")
    another = explanation(LOST, away={"shard-7": FORBIDDEN})
    assert another[-4].startswith("  Start those nodes again"), "no journal of this shard is there"


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


def test_shards_that_are_not_known_are_no_shards_that_are_led(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    monkeypatch.setattr(running, "status", lambda: found(plan_trouble=FORBIDDEN))
    code, out, _ = recover(running, monkeypatch)
    assert code == 1
    assert out.startswith(
        f"which shards there should be is not known: {SHOWN_FORBIDDEN}\n  `ringlog doctor` on the machine of"
    )
    code, out, _ = recover(running, monkeypatch, "--json")
    assert (code, orjson.loads(out)) == (1, {"plan_trouble": FORBIDDEN, "away": {}, "shards": {}})
    with pytest.raises(Unavailable, match="which shards there should be is not known"):
        recover(running, monkeypatch, "--accept-loss", "shard-0", "--yes")
    assert running.accepted == []


def test_a_plan_that_is_old_is_told_and_keeps_nothing_from_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    monkeypatch.setattr(running, "status", lambda: found(plan_trouble="no answer", shard_0=shard()))
    code, out, _ = recover(running, monkeypatch)
    assert code == 0
    assert out.startswith("whether there should be other shards by now is not known: no answer\nshard-0 is led by")


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
