"""Shards that are added and retired, on real hosts, disks, metadata and a real table, whatever becomes of the controller."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute  # noqa: F401  (DeltaTable needs its functions)
import pytest
from deltalake import DeltaTable

from actors import test_recover
from actors.test_shard import CLIENTS, SHARD, TOKEN, WITHIN_S, Client, Trio, eventually
from ringlog.actors.controller import Controller
from ringlog.actors.household import Household, change_shards, read_plan
from ringlog.actors.shard import Place, ShardHost
from ringlog.control import Plan, shard_names
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import MemoryStore, Versioned, open_store, read_all_decided, read_pipeline
from ringlog.metadata.records import PIPELINE_KEY, PipelineRecord, pipeline_from_bytes, pipeline_to_bytes
from ringlog.records import to_record_batch
from ringlog.replication import CompareAndSet, Standing, Submit
from ringlog.schema import pack
from ringlog.storage.journal import STATE, read_state
from ringlog.wire import Acknowledged, Declined, decode, encode, open_stream

LAST = "shard-3"


class Remote(test_recover.Remote):
    """A host of this process; after a call that is to be ``cut``, whoever called hears nothing any more."""

    def __init__(self, host: Any, house: House) -> None:
        super().__init__(host)
        self._house = house

    def call(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        if method == "flush":
            self._house.before_flush()
        answer = super().call(method, *arguments, timeout_s=timeout_s)
        if method == "take_over" and arguments[-1]:
            self._house.step("retired")
        elif method in ("forget", "flush"):
            self._house.step(method)
        return answer


class Router:
    """Keeps what it was told last: which shards there are, which of them take no new keys, and who leads."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.shards: tuple[str, ...] = ()
        self.retiring: tuple[str, ...] = ()
        self.leaders: dict[str, Any] = {}

    def call(self, method: str, *arguments: Any, timeout_s: float) -> None:
        _, self.shards, self.retiring, self.leaders, _, _ = arguments
        if self.retiring:
            self._house.step("told")


class House(Household):
    """Begins the actors that are asked for. ``cut``: the step after which the controller dies, once.

    ``before_flush`` is called by whoever is about to have something archived.
    """

    def __init__(self, folder: Path) -> None:
        self.trio = Trio(folder)
        self.store = open_store(self.trio.settings.root, {})
        record = PipelineRecord.new(3)
        self.store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(record), 0)
        super().__init__(self.trio.settings, record.id, {})
        self.cut: str | None = None
        self.died = threading.Event()
        self.before_flush: Callable[[], None] = lambda: None
        self.looks = 0
        self.told = Router(self)

    def step(self, name: str) -> None:
        if name == self.cut:
            self.died.set()
        if self.died.is_set():
            raise Unavailable("who called is dead")

    def summon(self, actor: str, anywhere: bool, groups: Sequence[Collection[str]]) -> Any:
        if actor not in self.trio.hosts:
            self.trio.hosts[actor] = self.trio.host(actor)
        return Remote(self.trio.hosts[actor], self)

    def router(self) -> Any:
        return self.told

    def keep_housekeeper(self) -> None:
        """The table needs none here."""

    def lives(self, actor: str, node: str) -> None:
        assert node == "here"

    def leaving(self) -> Collection[str]:
        return ()

    def next_move(self, groups: Sequence[Collection[str]]) -> None:
        """There is one node."""

    def move(self, move: Any) -> Any:
        raise AssertionError("nothing moves")

    def plan(self) -> Plan:
        self.looks += 1
        return super().plan()

    def change_shards(self, shards: int) -> None:
        super().change_shards(shards)
        self.step("decided")

    def _end(self, actor: str) -> None:
        assert not any(member.actor == actor for state in self._decided().values() for member in state.members)
        if actor in self.trio.hosts:
            self.trio.stop(actor)
        self.step("ended")
        shutil.rmtree(self.trio.folder / "journals" / actor, ignore_errors=True)


class Watched:
    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.router = self.house.told
        self.control()

    def control(self) -> None:
        """A controller with no memory."""
        self.house._plan = None
        self.controller = Controller(3, 2, self.house, TOKEN)
        self.controller.begin()

    def complete(self, shards: int) -> bool:
        found = self.controller.status()
        well = all(len(one.get("members", ())) == 3 and not one["retiring"] for one in found["shards"].values())
        return (
            well
            and len(found["shards"]) == len(found["actors"]) == shards
            and self.router.shards == (*found["shards"],)
        )

    def decided(self) -> dict[str, Any]:
        return read_all_decided(self.house.store, [f"shard-{number}" for number in range(5)], WITHIN_S)

    def journals(self, shard: str) -> dict[str, str]:
        """Who has a journal of it on its disk, and under which id."""
        folders = (self.house.trio.folder / "journals").glob(f"*/{shard}")
        states = {folder.parent.name: read_state(folder / STATE) for folder in folders}
        return {actor: state["id"] for actor, state in states.items() if state is not None}

    def submit(self, shard: str, producer: str, sequence: int = 0, since: int = 0) -> Any:
        """One record, to whoever leads ``shard`` by the routes; and again where another leads it by then."""
        answers: list[Any] = []

        def answered() -> bool:
            led = self.router.leaders.get(shard)
            if led is None:
                return False
            try:
                answers.append(self.send(led["location"], shard, led["epoch"], producer, sequence, since))
            except Unavailable:
                return False
            return answers[-1] is not None and getattr(answers[-1], "reason", None) != "fenced"

        eventually(answered)
        return answers[-1]

    def send(self, location: str, shard: str, epoch: int, producer: str, sequence: int, since: int) -> Any:
        found: list[Any] = []
        answered = threading.Event()

        def take(frame: memoryview) -> None:
            found.append(decode(frame))
            answered.set()

        stream = open_stream(location, TOKEN, take, answered.set)
        batch = to_record_batch([{"body": f"{shard} {producer} {sequence}", "service": "s"}], observed_ns=7)
        stream.send(encode(Submit(shard, epoch, producer, 0, sequence, since, 1, "quorum", pack(batch))))
        assert answered.wait(WITHIN_S)
        stream.close()
        stream.join()
        return found[0] if found else None

    def rows(self, shard: str) -> list[tuple[int, str]]:
        table = DeltaTable(self.house.trio.settings.table_url).to_pyarrow_table(
            columns=["shard", "record_offset", "body"]
        )
        return sorted((row["record_offset"], row["body"]) for row in table.to_pylist() if row["shard"] == shard)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr("ringlog.control.reconcile.COMPLETING_S", 0.1)
    monkeypatch.setattr("ringlog.control.draining.LEFT_S", 0.3)
    monkeypatch.setattr("ringlog.control.draining.QUIET_S", 0.2)
    monkeypatch.setattr("ringlog.actors.controller.PLAN_S", (0.1, 0.1))
    made = Watched(tmp_path)
    eventually(lambda: made.complete(3))
    yield made
    made.controller.leave()
    assert not CLIENTS
    made.house.trio.close()


def grown(watched: Watched) -> None:
    watched.controller.change_shards(4)
    eventually(lambda: watched.complete(4))


def test_a_shard_that_is_added_is_led_with_members_and_keeps_its_neighbours(watched: Watched) -> None:
    before = watched.controller.status()["shards"]["shard-0"]
    grown(watched)
    wished = {
        "shard-0": {"shard-0", "shard-1", "shard-2"},
        "shard-1": {"shard-1", "shard-2", "shard-3"},
        "shard-2": {"shard-2", "shard-3", "shard-0"},
        "shard-3": {"shard-3", "shard-0", "shard-1"},
    }

    def members() -> dict[str, set[str]]:
        found = watched.controller.status()["shards"]
        return {shard: set(one.get("members", ())) for shard, one in found.items()}

    eventually(lambda: members() == wished)
    assert watched.controller.status()["shards"]["shard-0"]["epoch"] == before["epoch"], (
        "whose members stay is not touched"
    )
    assert isinstance(watched.submit(LAST, "p"), Acknowledged)


def test_a_number_that_has_no_room_for_the_copies_is_refused(watched: Watched) -> None:
    with pytest.raises(ConfigurationError, match="give at least 3 shards, not 2"):
        watched.controller.change_shards(2)


@pytest.mark.parametrize("cut", [None, "decided", "told", "flush", "retired", "forget", "ended"])
def test_a_retired_shard_is_all_in_the_table_and_leaves_nothing_behind_wherever_the_controller_dies(
    watched: Watched, cut: str | None
) -> None:
    grown(watched)
    for number in range(3):
        assert isinstance(watched.submit(LAST, f"p{number}"), Acknowledged)
    zombie = dict(watched.router.leaders[LAST])
    watched.house.cut = cut
    if cut is None:
        watched.controller.change_shards(3)
    else:
        try:
            watched.controller.change_shards(3)
        except Unavailable:
            assert cut == "decided"
        assert watched.house.died.wait(WITHIN_S)
        watched.controller.leave()
        watched.house.cut = None
        watched.house.died.clear()
        watched.control()
    eventually(lambda: watched.complete(3) and LAST not in watched.house.trio.hosts)
    state = watched.decided()[LAST]
    assert (state.state, state.members, state.ended) == ("retired", (), 3)
    assert [offset for offset, _ in watched.rows(LAST)] == [0, 1, 2]
    counted = {member.actor for one in watched.decided().values() for member in one.members}
    assert counted == {"shard-0", "shard-1", "shard-2"}
    eventually(lambda: not list((watched.house.trio.folder / "journals").glob(f"*/{LAST}")))
    eventually(lambda: not list((watched.house.trio.folder / "journals" / LAST).glob("*/state.json")))
    assert zombie["epoch"] < state.epoch
    assert isinstance(watched.submit("shard-0", "q"), Acknowledged)


def test_one_that_is_taken_up_again_goes_on_where_it_ended_and_says_that_it_knows_nobody(watched: Watched) -> None:
    grown(watched)
    assert isinstance(watched.submit(LAST, "p"), Acknowledged)
    watched.controller.change_shards(3)
    eventually(lambda: watched.decided()[LAST].state == "retired")
    grown(watched)  # though the actor may just be ending
    again = watched.submit(LAST, "p", sequence=0)
    assert isinstance(again, Declined), "it may have been stored before: the shard cannot say any more"
    assert (again.reason, again.message) == (
        "rejected",
        "this producer, or a sequence this old, is no longer remembered",
    )
    new = watched.submit(LAST, "q", since=1)
    assert isinstance(new, Acknowledged)
    assert new.start == 1
    watched.controller.flush(WITHIN_S)
    assert [offset for offset, _ in watched.rows(LAST)] == [0, 1]


def test_a_journal_that_promised_a_later_epoch_than_that_of_the_retirement_is_not_removed(tmp_path: Path) -> None:
    with contextlib.closing(Trio(tmp_path)) as trio:
        _retired_and_led_again(trio)


def _retired_and_led_again(trio: Trio) -> None:
    def lead(decision: int, retire: bool = False) -> int:
        places = [Place(host.replica_id(SHARD), actor, host.location) for actor, host in trio.hosts.items()]
        locations = {actor: host.location for actor, host in trio.hosts.items()}
        return trio.hosts["shard-0"].take_over(SHARD, places, locations, False, decision, retire)

    def ids() -> list[str]:
        return [host.replica_id(SHARD) for host in trio.hosts.values()]

    assert (lead(1), lead(2, retire=True), lead(3)) == (1, 2, 3)
    before = ids()
    client = Client(trio.hosts["shard-0"], epoch=3)
    assert isinstance(client.submit(0), Acknowledged)
    for host in trio.hosts.values():
        host.forget(SHARD, 2)
    assert ids() == before
    assert isinstance(client.submit(1), Acknowledged)


def test_a_controller_whose_look_at_the_plan_is_old_removes_nothing_that_is_counted_again(watched: Watched) -> None:
    watched.controller.change_shards(5)
    eventually(lambda: watched.complete(5))
    assert isinstance(watched.submit("shard-4", "p"), Acknowledged)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        if LAST not in watched.controller._plan.retired:
            raise Unavailable("shard-4 is not archived before shard-3 is gone")
        held.set()
        assert go_on.wait(WITHIN_S)

    watched.house.before_flush = hold
    watched.controller.change_shards(3)
    assert held.wait(WITHIN_S)
    watched.controller.change_shards(5)
    eventually(lambda: watched.decided()[LAST].state == "open" and watched.complete(5))
    assert isinstance(watched.submit(LAST, "q"), Acknowledged)
    counted = {member.actor: member.id for member in watched.decided()[LAST].members}
    looks = watched.house.looks
    go_on.set()
    eventually(lambda: watched.house.looks >= looks + 2)
    assert watched.journals(LAST) == counted


def test_a_shard_that_is_wanted_again_while_it_is_retired_is_retired_by_the_earlier_decision(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(watched)
    lead, decided = watched.controller._lead, threading.Event()

    def decide_and_lead(*arguments: Any, retire: bool = False) -> int:
        if retire and not decided.is_set():
            decided.set()
            watched.controller.change_shards(4)
        return lead(*arguments, retire=retire)

    monkeypatch.setattr(watched.controller, "_lead", decide_and_lead)
    watched.controller.change_shards(3)
    eventually(lambda: watched.decided()[LAST].retired > 0)
    _, newest = read_pipeline(watched.house.store)
    assert watched.decided()[LAST].retired == newest - 1
    eventually(lambda: watched.complete(4))
    assert isinstance(watched.submit(LAST, "p"), Acknowledged)


def test_a_take_over_that_claims_nothing_before_its_shard_is_not_wanted_any_more_opens_nothing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringlog.actors.shard.TAKEOVER_DEADLINE_S", 2.0)
    held, go_on, late = threading.Event(), threading.Event(), threading.Event()
    write = ShardHost._compare_and_set

    def hold(host: ShardHost, change: CompareAndSet) -> Standing:
        if change.state.shard != LAST or held.is_set():
            return write(host, change)
        held.set()
        assert go_on.wait(WITHIN_S)
        late.set()
        return write(host, change)

    monkeypatch.setattr(ShardHost, "_compare_and_set", hold)
    watched.controller.change_shards(4)
    assert held.wait(WITHIN_S)
    watched.controller.change_shards(3)
    eventually(lambda: LAST in watched.decided() and watched.decided()[LAST].state == "retired")
    go_on.set()
    assert late.wait(WITHIN_S)
    eventually(lambda: watched.complete(3) and LAST not in watched.house.trio.hosts)
    state = watched.decided()[LAST]
    assert (state.state, state.members, state.retired) == ("retired", (), read_pipeline(watched.house.store)[1])
    eventually(lambda: watched.journals(LAST) == {})


def test_what_comes_while_it_is_about_to_be_retired_is_acknowledged_and_kept(watched: Watched) -> None:
    grown(watched)
    watched.controller.change_shards(3)
    stored = 0
    while LAST in watched.router.leaders and stored < 20:
        led = watched.router.leaders[LAST]
        answer = watched.send(led["location"], LAST, led["epoch"], f"late-{stored}", 0, 0)
        if not isinstance(answer, Acknowledged):
            break
        stored += 1
    eventually(lambda: watched.complete(3))
    assert stored >= 1
    assert len(watched.rows(LAST)) >= stored
    assert watched.decided()[LAST].ended == len(watched.rows(LAST))


class Racing(MemoryStore):
    """Somebody else decides between the look and the write; the answer to the write that stands is lost."""

    def __init__(self, others: int) -> None:
        super().__init__()
        self.others = others

    def compare_and_set(self, key: str, value: bytes, expected: int) -> Versioned:
        if expected and self.others:
            changed = pipeline_from_bytes(value).changed(self.others)
            self.others = 0
            super().compare_and_set(key, pipeline_to_bytes(changed), expected)
        written = super().compare_and_set(key, value, expected)
        if expected:
            raise OutcomeUnknown("the answer was lost")
        return written


def test_of_two_who_decide_at_once_one_is_told_and_a_lost_answer_is_found_again() -> None:
    for others, stands in ((5, 5), (0, 4)):
        store = Racing(others)
        store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(PipelineRecord.new(3)), 0)
        if others:
            with pytest.raises(Conflict, match="somebody else chose 5 shards"):
                change_shards(store, 4, 3)
        else:
            change_shards(store, 4, 3)
        assert read_plan(store, read_pipeline(store)[0].id, None).shards == shard_names(stands)
