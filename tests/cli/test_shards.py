"""What `ringlog shards` says and waits for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from cli.test_status import FORBIDDEN, SHOWN_FORBIDDEN, found, shard, shown
from ringlog.cli import app
from ringlog.cli.shards import to_do, told
from ringlog.cli.status import overview
from ringlog.errors import Unavailable

FOUR = {f"shard_{number}": shard() for number in range(3)} | {
    "shard_3": shard(retiring=True, committed=40, archived=31)
}


class Running:
    """A pipeline that shows one status after the other, the last one for ever; None: it does not answer."""

    def __init__(self, *statuses: dict[str, Any] | None) -> None:
        self.statuses = list(statuses)
        self.changed: list[int] = []

    def change_shards(self, number: int) -> None:
        self.changed.append(number)

    def status(self) -> dict[str, Any]:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status is None:
            raise Unavailable("the controller gave no answer")
        return status


def run(monkeypatch: pytest.MonkeyPatch, running: Running, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("ringlog.cli.shards.cluster.join_ray", lambda **_: None)
    monkeypatch.setattr("ringlog.cli.shards.cluster.connect", lambda: running)
    monkeypatch.setattr("ringlog.cli.shards._LOOK_S", 0.0)
    done = CliRunner().invoke(app, ["shards", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_a_shard_that_is_to_be_retired_is_said_with_what_is_left() -> None:
    assert list(told(found(**FOUR))) == [
        "3 shards take records",
        "shard-3 takes no new keys and is to be retired, 9 records to archive",
    ]
    assert "retiring" in shown(overview(found(**FOUR)))


def test_what_is_to_be_done_is_nothing_only_when_all_is_done() -> None:
    three = {name: one for name, one in FOUR.items() if name != "shard_3"}
    assert list(to_do(found(**three), 3)) == []
    assert list(to_do(found(**three), 4)) == ["4 shards are wanted"]
    assert list(to_do({**found(**three), "lingering": ["shard-3"]}, 3)) == [
        "shard-3 ends once no shard counts on its journals"
    ]
    assert list(to_do(found(**three, shard_3=shard(condition="opening", leader=None)), 4)) == ["shard-3 is opening"]


def test_while_it_is_not_known_which_there_should_be_nothing_is_done() -> None:
    three = {name: one for name, one in FOUR.items() if name != "shard_3"}
    unknown = f"is not known: {SHOWN_FORBIDDEN}"
    assert list(to_do(found(plan_trouble=FORBIDDEN, **three), 3)) == [
        f"whether there should be other shards by now {unknown}"
    ]
    assert list(to_do(found(plan_trouble=FORBIDDEN), 3)) == [
        f"which shards there should be {unknown}",
        "3 shards are wanted",
    ]


def test_shards_that_are_not_known_are_not_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ([], ["--json"]):
        with pytest.raises(Unavailable, match="which shards there should be is not known: it has not been read yet"):
            run(monkeypatch, Running(found(plan_trouble="it has not been read yet")), *arguments)


def test_an_old_number_is_shown_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    code, told = run(monkeypatch, Running(found(plan_trouble=FORBIDDEN, shard_0=shard())))
    assert code == 0
    assert told.splitlines() == [
        "1 shards take records",
        f"whether there should be other shards by now is not known: {SHOWN_FORBIDDEN}",
    ]


def test_it_waits_until_the_number_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    three = {name: one for name, one in FOUR.items() if name != "shard_3"}
    running = Running(found(plan_trouble=FORBIDDEN), found(plan_trouble=FORBIDDEN, **three), found(**three))
    code, told = run(monkeypatch, running, "3")
    assert (code, told.splitlines()[-1], len(running.statuses)) == (0, "3 shards take records", 1)


def test_it_waits_until_it_is_done_also_over_a_controller_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    three = found(**{name: one for name, one in FOUR.items() if name != "shard_3"})
    running = Running(found(**FOUR), None, three)
    code, told = run(monkeypatch, running, "3", "--json")
    assert (code, running.changed, orjson.loads(told)) == (0, [3], {"shards": 3, "to_do": []})


def test_without_a_number_it_only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(found(**FOUR))
    code, told = run(monkeypatch, running)
    assert (code, running.changed) == (0, [])
    assert told.startswith("3 shards take records\n")
