"""Shard actors without Ray: three of them in this process, with real journals, real streams and a real table."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from ringlog.actors.shard import Place, ShardHost
from ringlog.errors import Fenced, Unavailable
from ringlog.metadata import open_store
from ringlog.metadata.records import shard_key, shard_state_from_bytes
from ringlog.records import to_record_batch
from ringlog.replication import Submit
from ringlog.schema import pack
from ringlog.settings import Settings
from ringlog.storage import Table, read_entries
from ringlog.wire import Acknowledged, Declined, decode, encode, follow, open_stream, read_tail

TOKEN = "token"
SHARD = "shard-0"
WITHIN_S = 20.0


class Trio:
    """Three hosts on loopback; `stop` is the end of one's process, as far as one process can play that."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        # Nothing is archived that is not asked for, however long a test takes.
        settings = {"flush_age_s": 1000.0, **settings}
        self.settings = Settings(root=str(folder / "root"), journal_dir=str(folder / "journals"), **settings)
        self.failures: list[BaseException] = []
        self.hosts = {actor: self.host(actor) for actor in ("shard-0", "shard-1", "shard-2")}

    def host(self, actor: str) -> ShardHost:
        store = open_store(self.settings.root, {})
        journals = self.folder / "journals" / actor
        return ShardHost(actor, self.settings, journals, store, TOKEN, "127.0.0.1", self.failures.append)

    def open(
        self,
        leader: str = "shard-0",
        members: tuple[str, ...] = ("shard-0", "shard-1", "shard-2"),
        accept_loss: bool = False,
    ) -> int:
        places = [Place(self.hosts[one].replica_id(SHARD), one, self.hosts[one].location) for one in members]
        locations = {one: host.location for one, host in self.hosts.items()}
        return self.hosts[leader].take_over(SHARD, places, locations, accept_loss)

    def stop(self, actor: str) -> None:
        self.hosts.pop(actor).close()

    def close(self) -> None:
        while CLIENTS:
            stream = CLIENTS.pop().stream
            stream.close()
            stream.join()
        for actor in list(self.hosts):
            self.stop(actor)
        assert self.failures == []

    def journal(self, actor: str) -> list[int]:
        """The offsets at which the entries on that actor's disk begin."""
        files = sorted((self.folder / "journals" / actor / SHARD).glob("*.arrows"))
        return [entry.start for path in files for entry in read_entries(path)]


class Client:
    """A bare producer's stream."""

    def __init__(self, host: ShardHost, epoch: int = 1, producer: str = "p") -> None:
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.epoch, self.producer = epoch, producer
        CLIENTS.append(self)
        self.stream = open_stream(
            host.location, TOKEN, lambda frame: self.answers.put(decode(frame)), lambda: self.answers.put(None)
        )

    def submit(self, sequence: int, rows: int = 10, acks: Any = "quorum", **changes: Any) -> Any:
        self.send(sequence, rows, acks, **changes)
        return self.answers.get(timeout=WITHIN_S)

    def send(self, sequence: int, rows: int = 10, acks: Any = "quorum", **changes: Any) -> None:
        batch = to_record_batch([{"body": f"{sequence}/{row}", "service": "s"} for row in range(rows)], observed_ns=7)
        fields = {"since": 0, "records": rows, "payload": pack(batch), **changes}
        self.stream.send(encode(Submit(SHARD, self.epoch, self.producer, 0, sequence, acks=acks, **fields)))


CLIENTS: list[Client] = []
"""Those of the running test: a stream that is left open would keep its server, and this process, from ending."""


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    made = Trio(tmp_path)
    yield made
    made.close()


def eventually(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(400):
        if holds():
            return
        pause.wait(WITHIN_S / 400)
    raise AssertionError("it did not come true in time")


def bodies(host: ShardHost) -> list[str]:
    reply = read_tail(host.location, TOKEN, SHARD)
    return [body for batch in reply.batches for body in batch["body"].to_pylist()]


def test_an_ack_means_that_a_majority_has_it_on_disk(trio: Trio) -> None:
    assert trio.open() == 1
    client = Client(trio.hosts["shard-0"])
    for sequence in range(5):
        assert client.submit(sequence) == Acknowledged(SHARD, "p", 0, sequence, 1, 10 * sequence, 10 * sequence + 10)
        holders = [actor for actor in trio.hosts if 10 * sequence in trio.journal(actor)]
        assert len(holders) >= 2
    assert bodies(trio.hosts["shard-0"]) == [f"{sequence}/{row}" for sequence in range(5) for row in range(10)]


def test_a_retry_of_a_sequence_stores_nothing_twice(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    first = client.submit(0)
    assert client.submit(0) == first
    assert Client(trio.hosts["shard-0"]).submit(0) == first, "also on another stream"
    assert len(bodies(trio.hosts["shard-0"])) == 10


def test_a_jump_and_an_unknown_producer_are_refused(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    client.submit(0)
    jump = client.submit(5)
    assert (jump.reason, jump.sequence_expected) == ("expected", 1)
    assert Client(trio.hosts["shard-0"], producer="q").submit(3).reason == "rejected"


def test_a_full_buffer_declines_and_loses_nothing(tmp_path: Path) -> None:
    trio = Trio(tmp_path, shard_buffer_bytes_max=20_000, flush_age_s=10**6)
    trio.open()
    table = Path(trio.settings.table_url)
    aside = table.rename(tmp_path / "aside")
    table.write_text("so that nothing can be archived")
    client = Client(trio.hosts["shard-0"])
    accepted = 0
    while isinstance(client.submit(accepted), Acknowledged):
        accepted += 1
    declined = client.submit(accepted)
    assert isinstance(declined, Declined)
    assert declined.reason == "overloaded"
    assert accepted > 3
    assert len(bodies(trio.hosts["shard-0"])) == 10 * accepted
    table.unlink()
    aside.rename(table)
    trio.hosts["shard-0"].flush(WITHIN_S)
    assert isinstance(client.submit(accepted), Acknowledged), "archiving makes room, and the same sequence goes on"
    trio.close()


def test_archiving_moves_records_once_and_trims_every_journal(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    for sequence in range(5):
        client.submit(sequence)
    assert trio.hosts["shard-0"].flush(WITHIN_S) == {SHARD: 50}
    assert bodies(trio.hosts["shard-0"]) == []
    table = DeltaTable(trio.settings.table_url).to_pyarrow_table()
    assert sorted(table["record_offset"].to_pylist()) == list(range(50))
    statuses = [host.status for host in trio.hosts.values()]
    eventually(lambda: all(status()["keeping"][SHARD]["trimmed"] == 50 for status in statuses))
    assert client.submit(4) == Acknowledged(SHARD, "p", 0, 4, 1, 40, 50), "a retry is recognised after the trim too"


def test_stored_answers_once_the_table_has_it(trio: Trio) -> None:
    trio.open()
    answer = Client(trio.hosts["shard-0"]).submit(0, acks="stored")
    assert answer == Acknowledged(SHARD, "p", 0, 0, 1, 0, 10)
    assert DeltaTable(trio.settings.table_url).transaction_version(SHARD) == 10


def test_followers_get_what_is_committed_as_it_is(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    client.submit(0)
    reply, stop = follow(trio.hosts["shard-0"].location, TOKEN, SHARD, None)
    assert reply.base == 10
    client.submit(1)
    batch = next(batch for batch in reply.batches if batch.num_rows)
    assert batch["record_offset"].to_pylist() == list(range(10, 20))
    stop()
    again, stop = follow(trio.hosts["shard-0"].location, TOKEN, SHARD, 10)
    assert next(batch for batch in again.batches if batch.num_rows)["record_offset"][0].as_py() == 10
    stop()


def test_a_follower_that_has_gone_is_held_by_nobody(trio: Trio) -> None:
    trio.open()
    host = trio.hosts["shard-0"]
    reply, stop = follow(host.location, TOKEN, SHARD, None)
    next(reply.batches)
    assert len(host._followers._of[SHARD]) == 1
    stop()
    eventually(lambda: not host._followers._of[SHARD])


def test_a_flush_does_not_wait_for_a_shard_that_another_leads_by_now(trio: Trio) -> None:
    trio.open()
    Client(trio.hosts["shard-0"]).submit(0)
    table = Path(trio.settings.table_url)
    aside = table.rename(trio.folder / "aside")
    table.write_text("so that nothing can be archived")
    with ThreadPoolExecutor(1) as thread:
        flushed = thread.submit(trio.hosts["shard-0"].flush, 1000.0)
        archiver = trio.hosts["shard-0"]._archiver
        eventually(lambda: archiver.trouble is not None)
        archiver.close()  # as one that does not get to it
        assert not flushed.done()
        table.unlink()
        aside.rename(table)
        trio.open("shard-1")
        assert flushed.result(WITHIN_S) == {}
    assert trio.hosts["shard-1"].flush(WITHIN_S) == {SHARD: 10}


def test_whoever_does_not_lead_says_so(trio: Trio) -> None:
    trio.open()
    assert Client(trio.hosts["shard-1"]).submit(0).reason == "fenced"
    assert Client(trio.hosts["shard-0"], epoch=7).submit(0).reason == "fenced"
    with pytest.raises(Fenced):
        read_tail(trio.hosts["shard-1"].location, TOKEN, SHARD)
    with pytest.raises(Fenced):
        follow(trio.hosts["shard-1"].location, TOKEN, SHARD, None)


def test_a_batch_that_is_none_is_declined_and_the_stream_goes_on(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    assert client.submit(0, payload=b"garbage").reason == "invalid"
    assert client.submit(0, records=11).reason == "invalid"
    assert isinstance(client.submit(0), Acknowledged)


def test_without_the_token_nothing_is_served(trio: Trio) -> None:
    trio.open()
    location = trio.hosts["shard-0"].location
    ended = threading.Event()
    with contextlib.suppress(Unavailable):  # it is refused when it opens, or right after
        stream = open_stream(location, "guess", lambda _: None, ended.set)
        stream.send(encode(Submit(SHARD, 1, "p", 0, 0, 0, 1, "quorum", b"")))
    assert ended.wait(WITHIN_S)
    with pytest.raises(Unavailable):
        read_tail(location, "guess", SHARD)


def test_another_actor_takes_over_with_everything_acknowledged(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    for sequence in range(3):
        client.submit(sequence)
    assert trio.open("shard-1") == 2
    assert client.submit(3).reason == "fenced", "the old leader heard of it from its own replica"
    after = Client(trio.hosts["shard-1"], epoch=2)
    assert after.submit(2) == Acknowledged(SHARD, "p", 0, 2, 2, 20, 30)
    assert after.submit(3) == Acknowledged(SHARD, "p", 0, 3, 2, 30, 40)
    assert bodies(trio.hosts["shard-1"]) == [f"{sequence}/{row}" for sequence in range(4) for row in range(10)]


def test_one_of_three_may_be_gone(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    client.submit(0)
    trio.stop("shard-2")
    assert isinstance(client.submit(1), Acknowledged)
    trio.hosts["shard-2"] = trio.host("shard-2")
    assert trio.open("shard-2") == 2, "one that was away leads, and takes the log from the others"
    assert len(bodies(trio.hosts["shard-2"])) == 20


def test_without_a_majority_nothing_is_acknowledged_and_nothing_is_guessed(trio: Trio, monkeypatch: Any) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    client.submit(0)
    trio.stop("shard-1")
    trio.stop("shard-2")
    client.send(1)
    with pytest.raises(queue.Empty):
        client.answers.get(timeout=1.0)
    monkeypatch.setattr("ringlog.actors.shard.TAKEOVER_DEADLINE_S", 1.0)
    with pytest.raises(Unavailable, match="needed seals; no answer from shard-1, shard-2"):
        trio.open("shard-0", ("shard-0",))


def test_everything_survives_the_end_of_every_process(tmp_path: Path) -> None:
    first = Trio(tmp_path)
    first.open()
    client = Client(first.hosts["shard-0"])
    for sequence in range(4):
        client.submit(sequence)
    first.hosts["shard-0"].flush(WITHIN_S)
    for sequence in range(4, 8):
        client.submit(sequence)
    first.close()
    second = Trio(tmp_path)
    assert second.open("shard-2") == 2
    assert [int(body.split("/")[0]) for body in bodies(second.hosts["shard-2"])][::10] == [4, 5, 6, 7]
    assert Client(second.hosts["shard-2"], epoch=2).submit(7) == Acknowledged(SHARD, "p", 0, 7, 2, 70, 80)
    second.close()


def test_a_lost_journal_is_somebody_new(tmp_path: Path) -> None:
    first = Trio(tmp_path)
    first.open()
    Client(first.hosts["shard-0"]).submit(0)
    old = first.hosts["shard-1"].replica_id(SHARD)
    first.close()
    for path in (tmp_path / "journals" / "shard-1" / SHARD).iterdir():
        path.unlink()
    (tmp_path / "journals" / "shard-1" / SHARD).rmdir()
    second = Trio(tmp_path)
    assert second.hosts["shard-1"].replica_id(SHARD) != old
    assert second.open("shard-1") == 2
    assert len(bodies(second.hosts["shard-1"])) == 10, "it took the log from the two that remember"
    second.close()


def test_a_loss_is_accepted_and_every_reader_is_shown_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Trio(tmp_path)
    first.open()
    Client(first.hosts["shard-0"]).submit(0)
    first.close()
    for actor in ("shard-0", "shard-1"):
        shutil.rmtree(tmp_path / "journals" / actor / SHARD)
    second = Trio(tmp_path)
    with monkeypatch.context() as hasty:
        hasty.setattr("ringlog.actors.shard.TAKEOVER_DEADLINE_S", 1.0)
        with pytest.raises(Unavailable, match="1 of 2 needed seals"):
            second.open("shard-2")
    monkeypatch.setattr("ringlog.replication.takeover.LOSS_GRACE_S", 1.0)
    assert second.open("shard-2", accept_loss=True) == 3
    gap = "records of shard-0 may be missing here: the loss was accepted by `ringlog recover --accept-loss`"
    assert bodies(second.hosts["shard-2"])[10:] == [gap]
    found = open_store(second.settings.root, {}).get(shard_key(SHARD))
    assert found is not None
    state = shard_state_from_bytes(found.value)
    assert (state.state, state.accepted, state.gaps, len(state.members)) == ("open", 3, ((3, 10),), 3)
    assert second.hosts["shard-2"].flush(WITHIN_S) == {SHARD: 11}
    assert Table(second.settings.table_url, {}).snapshot().fence(SHARD) == 3
    second.close()


def test_a_leader_to_whom_the_table_is_closed_hears_it_when_it_archives(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    client.submit(0)
    Table(trio.settings.table_url, {}).fence(SHARD, 2)
    with pytest.raises(Unavailable, match="not archived yet"):
        trio.hosts["shard-0"].flush(1.0)
    assert trio.hosts["shard-0"].status()["leading"] == {}
    assert client.submit(1).reason == "fenced"
    assert trio.open("shard-1") == 2
    assert trio.hosts["shard-1"].flush(WITHIN_S) == {SHARD: 10}


def test_a_failed_disk_ends_the_host_and_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trio = Trio(tmp_path)
    trio.open()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr("ringlog.storage.journal.os.fdatasync", fail)
        client = Client(trio.hosts["shard-0"])
        client.send(0)
        eventually(lambda: len(trio.failures) >= 2)
        with pytest.raises(queue.Empty):
            client.answers.get(timeout=0.5)
        assert {type(error) for error in trio.failures} == {OSError}
    trio.failures.clear()
    trio.close()


def test_garbage_on_a_stream_ends_it_and_nothing_else(trio: Trio) -> None:
    trio.open()
    bad = Client(trio.hosts["shard-0"])
    bad.stream.send(b"garbage")
    assert bad.answers.get(timeout=WITHIN_S) is None
    assert isinstance(Client(trio.hosts["shard-0"]).submit(0), Acknowledged)


def test_positions_are_those_of_the_ack(trio: Trio) -> None:
    trio.open()
    answer = Client(trio.hosts["shard-0"]).submit(0, rows=3)
    reply = read_tail(trio.hosts["shard-0"].location, TOKEN, SHARD)
    table = pa.Table.from_batches(list(reply.batches))
    assert table["record_offset"].to_pylist() == list(range(answer.start, answer.end))
    assert set(table["shard"].to_pylist()) == {SHARD}


def test_a_follower_that_began_again_elsewhere_is_found_and_catches_up(trio: Trio) -> None:
    trio.open()
    client = Client(trio.hosts["shard-0"])
    client.submit(0)
    trio.stop("shard-2")
    client.submit(1)
    trio.hosts["shard-2"] = trio.host("shard-2")  # the same journal, another port
    trio.hosts["shard-0"].status({"shard-2": trio.hosts["shard-2"].location})
    trio.stop("shard-1")
    assert isinstance(client.submit(2), Acknowledged), "a majority needs it now"
    assert trio.journal("shard-2") == [0, 10, 20]
