"""The shard actor: one process that leads some shards and keeps replicas of others.

One inbox runs every core, in the threads of Flight, of the journals and of the control plane that bring events to it.
Each participant has a thread for its disk, each stream one for what goes out, and one archiver serves all leaders.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from ringlog.actors.archiver import Archiver, Unflushed
from ringlog.actors.followers import Followers
from ringlog.actors.participants import HostedParticipant, Place
from ringlog.actors.payloads import gap_record, invalid, rows
from ringlog.actors.status import parts
from ringlog.errors import Conflict, Fenced, InvalidRecord, OutcomeUnknown, RinglogError, Unavailable
from ringlog.metadata import MetadataStore
from ringlog.metadata.records import shard_key, shard_state_from_bytes, shard_state_to_bytes
from ringlog.replication import (
    Answer,
    CompareAndSet,
    Confirmation,
    Deposed,
    Entry,
    Leader,
    Leads,
    Member,
    NotLeading,
    Outpaced,
    Output,
    Participant,
    ReadState,
    ReadStored,
    Retired,
    Standing,
    Stored,
    Submit,
    Unanswered,
)
from ringlog.replication.takeover import LOSS_GRACE_S
from ringlog.schema import TABLE_SCHEMA
from ringlog.settings import Settings
from ringlog.storage import Table
from ringlog.wire import Inbox, Link, Server, TailReply, answer_to, declined, decode, encode

_logger = logging.getLogger(__name__)

TAKEOVER_DEADLINE_S = 15.0
CALL_DEADLINE_S = 5.0
CLOSE_DEADLINE_S = 1.0

T = TypeVar("T")


class ShardHost:
    """Everything of a shard actor but Ray.

    ``journals`` is this actor's folder of journals; ``host`` the address its Flight server binds to; ``on_failure`` is
    told when a disk or an invariant has failed: the process must end, its replicas answer nothing any more.
    """

    def __init__(
        self,
        actor: str,
        settings: Settings,
        journals: Path,
        store: MetadataStore,
        token: str,
        host: str,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.actor = actor
        self._settings = settings
        self._journals = journals
        self._store = store
        self._token = token
        self._on_failure = on_failure
        self._participants: dict[str, HostedParticipant] = {}
        self._deadlines: dict[str, float] = {}
        self._actors: dict[str, str] = {}  # of a member's id
        self._locations: dict[str, str] = {}  # of an actor
        self._links: dict[tuple[str, str], Link] = {}
        self._followers = Followers(settings.client_buffer_bytes_max)
        self._changes = 0  # how many times what is led or promised here has changed
        self._changed = threading.Condition()
        self._closing = False
        self._forgetting = threading.Lock()
        self._trimmed = threading.Condition()
        self._stored: dict[str, int] = {}
        self._appended_bytes = 0
        self._table = Table(settings.table_url, settings.storage_options())
        # Either may be away, and calls that hang in one must not hold up the other.
        self._metadata_calls = ThreadPoolExecutor(4, thread_name_prefix="ringlog-metadata")
        self._table_calls = ThreadPoolExecutor(4, thread_name_prefix="ringlog-table")
        self._inbox = Inbox("ringlog-inbox", self._tick, self._wake, on_failure)
        for folder in sorted(journals.glob("*")):  # who this is stands on the disk
            self.replica_id(folder.name)
        self._archiver = Archiver(self._table, settings, self._unflushed, self._note_stored, on_failure)
        self._server = Server(host, token, self)
        self.location = self._server.location

    # The control plane: called from any thread, answered through the inbox.

    def replica_id(self, shard: str) -> str:
        """The id of this actor's replica of ``shard``; its journal is made where there is none."""
        with self._forgetting:
            return self._call(lambda: self._participant(shard).id)

    def take_over(
        self,
        shard: str,
        wished: Iterable[Place],
        locations: Mapping[str, str],
        accept_loss: bool = False,
        decision: int = 0,
        retire: bool = False,
    ) -> int:
        """Lead ``shard``, with the members ``wished``; returns the epoch.

        ``locations`` says where each shard actor listens now. ``accept_loss``: an operator gives up what only members
        that do not answer hold. ``decision`` wants the shard, or is to ``retire`` it: see `Takeover`. Raises
        `Unavailable`, saying what is missing, when too few answer in time, and `Fenced` when somebody else was ahead.
        """
        places = list(wished)
        found = self._store.get(shard_key(shard))
        state = shard_state_from_bytes(found.value) if found else None
        future: Future[int] = Future()

        def settle(answer: Leads | Retired | Outpaced) -> None:
            if isinstance(answer, Leads | Retired):
                future.set_result(answer.epoch)
            else:
                future.set_exception(Fenced(f"another candidate for {shard} was ahead", answer.epoch))

        def begin(participant: Participant) -> Output:
            self._actors.update({member.id: member.actor for member in (state.members if state else ())})
            self._actors.update({place.id: place.actor for place in places})
            self._locations.update({**locations, **{place.actor: place.location for place in places}})
            return participant.take_over(
                settle,
                state,
                found.version if found else 0,
                [Member(place.id, place.actor) for place in places],
                self._settings.quorum,
                uuid.uuid4().hex,
                time.monotonic(),
                gap_record(shard, time.time_ns()),
                accept_loss,
                decision,
                retire,
            )

        with self._forgetting:
            self._call(lambda: self._participant(shard))
            self._inbox.put(lambda: self._drive(shard, begin))
            self._call(lambda: None)
        try:
            return future.result(TAKEOVER_DEADLINE_S + (LOSS_GRACE_S if accept_loss else 0.0))
        except FutureTimeoutError:
            raise Unavailable(
                f"the takeover of {shard} waits for {self._call(lambda: self._waits_for(shard))}"
            ) from None

    def forget(self, shard: str, epoch: int) -> None:
        """Remove this actor's journal of ``shard``, on which nobody counts since ``epoch`` began, or retired the shard.

        One that has promised a later epoch stays.
        """
        with self._forgetting:  # nobody opens it before it is gone
            hosted = self._call(lambda: self._forget(shard, epoch))
            if hosted is not None:
                hosted.remove()

    def status(self, locations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What this actor leads and keeps, as plain values; ``locations`` is where the others listen now."""

        def answer() -> dict[str, Any]:
            self._locations.update(locations or {})
            return self._status()

        return self._call(answer)

    def beat(self, locations: Mapping[str, str], changes: int | None, wait_s: float) -> dict[str, Any]:
        """The status as soon as what is led or promised here is not what it was at ``changes``, or after ``wait_s``.

        Raises `Unavailable` when this actor is closing.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._changes != changes or self._closing, wait_s)
            if self._closing:
                raise Unavailable(f"{self.actor} is closing")
        return self.status(locations)

    def flush(self, timeout_s: float) -> dict[str, int]:
        """Archive all that its leaders have committed by now; how far the table holds each shard then.

        A shard that is led elsewhere meanwhile is left out: its leader must be asked.
        """
        goals = {part.shard: part.committed for part in self._unflushed()}
        deadline = time.monotonic() + timeout_s
        self._archiver.demand()
        while not self._await_stored(goals, min(1.0, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                why = self._archiver.trouble or f"it is not done after {timeout_s:g} s"
                raise Unavailable(f"the records are safe in the journals, but not archived yet: {why}")
            self._archiver.demand()
            led = {part.shard for part in self._unflushed()}
            goals = {shard: goal for shard, goal in goals.items() if shard in led}
        return {shard: self._stored.get(shard, 0) for shard in goals}

    def _await_stored(self, goals: Mapping[str, int], timeout_s: float) -> bool:
        with self._trimmed:
            return self._trimmed.wait_for(
                lambda: all(self._stored.get(shard, 0) >= goal for shard, goal in goals.items()), timeout_s
            )

    def close(self) -> None:
        """Stop serving and close the journals; nothing that was acknowledged is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._archiver.close()
        self._inbox.hand(self._followers.close)
        self._inbox.close()
        for link in self._links.values():
            link.close()
        for participant in self._participants.values():
            participant.close()
        self._metadata_calls.shutdown()
        self._table_calls.shutdown()
        # It waits for streams that other processes hold open; nothing of ours depends on them any more.
        ending = threading.Thread(target=self._server.shutdown, name="ringlog-shutdown", daemon=True)
        ending.start()
        ending.join(CLOSE_DEADLINE_S)

    # The data plane: called from Flight's threads.

    def frame(self, kind: str, frame: memoryview, send: Callable[[bytes], None]) -> None:
        """A frame of a stream: decoded and checked here, decided in the inbox."""
        message = decode(frame)
        if kind == "replica":
            self._inbox.put(lambda: self._request(message, lambda reply: send(encode(reply))))
            return
        if not isinstance(message, Submit):
            raise InvalidRecord(f"a producer sends batches, not {type(message).__name__}")
        problem = invalid(message)
        if problem:
            send(encode(declined(message, "invalid", problem)))
        else:
            self._inbox.put(lambda: self._submit(message, send))

    def tail(self, shard: str, deadline_s: float) -> TailReply:
        """The unflushed part, given after a quorum has confirmed the epoch in a round that begins now."""
        future: Future[Confirmation | Deposed | NotLeading] = Future()

        def ask() -> None:
            if shard in self._participants:
                self._drive(shard, lambda one: one.read(future.set_result, time.monotonic()))
            else:
                future.set_result(NotLeading(0))

        self._inbox.put(ask)
        try:
            answer = future.result(deadline_s)
        except FutureTimeoutError:
            raise Unavailable(f"no majority of {shard} confirmed its leader in {deadline_s:g} s") from None
        if not isinstance(answer, Confirmation):
            raise Fenced(f"{self.actor} does not lead {shard}")
        batches = (rows(shard, entry) for entry in answer.entries)
        return TailReply(shard, answer.epoch, answer.base, answer.committed, batches)

    def follow(self, shard: str, start: int | None, gone: Callable[[], bool]) -> TailReply:
        """What is committed from ``start`` on, as it is; ends when this leadership does."""

        def begin() -> tuple[int, int, int, Iterator[Entry | None]]:
            leader = self._leader(shard)
            if leader is None:
                raise Fenced(f"{self.actor} does not lead {shard}")
            base = max(leader.committed if start is None else start, leader.trimmed)
            entries = self._followers.begin(shard, leader.committed_from(base), gone)
            return leader.epoch, base, leader.committed, entries

        epoch, base, committed, entries = self._call(begin)
        none = pa.RecordBatch.from_pylist([], schema=TABLE_SCHEMA)
        return TailReply(shard, epoch, base, committed, (rows(shard, entry) if entry else none for entry in entries))

    # Events: everything below is run by the inbox alone.

    def _call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the inbox and give its result, or raise its error, to the calling thread."""
        future: Future[T] = Future()

        def event() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  (raised again where the call came from)
                future.set_exception(error)

        self._inbox.put(event)
        try:
            return future.result(CALL_DEADLINE_S)
        except FutureTimeoutError:
            raise Unavailable(f"{self.actor} is too busy to answer in {CALL_DEADLINE_S:g} s: try again") from None

    def _wake(self) -> float | None:
        return min(self._deadlines.values(), default=None)

    def _tick(self, now: float) -> None:
        for shard, deadline in list(self._deadlines.items()):
            if deadline > now:
                continue
            del self._deadlines[shard]
            self._drive(shard, lambda one: one.tick(now))

    def _participant(self, shard: str) -> HostedParticipant:
        if shard not in self._participants:
            folder = self._journals / shard
            self._participants[shard] = HostedParticipant(self.actor, folder, shard, self._settings, self._on_failure)
            self._note_change()
        return self._participants[shard]

    def _forget(self, shard: str, epoch: int) -> HostedParticipant | None:
        core = self._participants[shard].core if shard in self._participants else None
        if core is None or core.leader or core.takeover or core.replica.promised > epoch:
            return None
        self._deadlines.pop(shard, None)
        self._note_change()
        return self._participants.pop(shard)

    def _leader(self, shard: str) -> Leader | None:
        return self._participants[shard].core.leader if shard in self._participants else None

    def _waits_for(self, shard: str) -> str:
        takeover = self._participants[shard].core.takeover
        return takeover.waits_for() if takeover else "nothing any more"

    def _drive(self, shard: str, event: Callable[[Participant], Output]) -> None:
        """Let ``event`` happen to this actor's part in ``shard``, and carry out what comes of it."""
        with self._noticing(shard):
            output = event(self._participants[shard].core)
        self._dispatch(shard, output)

    def _request(self, message: Any, deliver: Callable[[Any], None]) -> None:
        if message.shard in self._participants:
            with self._noticing(message.shard):
                self._participants[message.shard].request(message, deliver)

    @contextlib.contextmanager
    def _noticing(self, shard: str) -> Iterator[None]:
        """Followers hear of what is committed meanwhile, and of the end of a leadership; so does the controller."""
        before = self._leader(shard)
        committed = before.committed if before else 0
        promised = self._participants[shard].core.replica.promised
        yield
        leader = self._leader(shard)
        if leader is not before or self._participants[shard].core.replica.promised != promised:
            self._note_change()
        if leader is not before:
            self._followers.end(shard)
            if leader is not None:
                self._note_goal(shard, leader.trimmed)
                _logger.info("%s leads %s in epoch %d", self.actor, shard, leader.epoch)
        elif leader is not None and leader.committed > committed:
            self._followers.push(shard, leader.committed_from(committed))

    def _note_change(self) -> None:
        """What is led or promised here has changed."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _submit(self, submit: Submit, send: Callable[[bytes], None]) -> None:
        def answer(result: Answer) -> None:
            send(encode(answer_to(submit, result)))

        if submit.shard not in self._participants:
            answer(NotLeading(0))
            return
        self._appended_bytes += len(submit.payload)
        self._drive(submit.shard, lambda one: one.append(answer, submit, time.monotonic()))

    def _dispatch(self, shard: str, output: Output) -> None:
        """Send and reply at once: leaders and takeovers store nothing."""
        for message in output.send:
            if isinstance(message, CompareAndSet):
                write = partial(self._compare_and_set, message)
                self._ask(self._metadata_calls, shard, message.state.nonce, write)
            elif isinstance(message, ReadState):
                self._ask(self._metadata_calls, shard, message.nonce, partial(self._standing, shard, message.nonce))
            elif isinstance(message, ReadStored):
                self._ask(self._table_calls, shard, message.nonce, partial(self._read_stored, message))
            else:
                self._send(message)
        for caller, answer in output.reply:
            caller(answer)
        if output.deadline is not None:
            self._deadlines[shard] = min(output.deadline, self._deadlines.get(shard, output.deadline))

    def _send(self, message: Any) -> None:
        actor = self._actors.get(message.receiver)
        if actor == self.actor:
            self._request(message, lambda reply: self._inbox.put(lambda: self._answer(reply)))
        elif actor in self._locations:
            self._link(message.shard, actor).send(encode(message))

    def _link(self, shard: str, actor: str) -> Link:
        location = self._locations[actor]
        link = self._links.get((shard, actor))
        if link is None or link.location != location:
            if link is not None:
                link.close()
            link = self._links[shard, actor] = Link(location, self._token, self._received)
        return link

    def _received(self, frame: memoryview) -> None:
        message = decode(frame)
        self._inbox.put(lambda: self._answer(message))

    def _answer(self, message: Any) -> None:
        if message.shard in self._participants:
            self._drive(message.shard, lambda one: one.answer(message, time.monotonic()))

    def _ask(self, threads: ThreadPoolExecutor, shard: str, nonce: str, call: Callable[[], Standing | Stored]) -> None:
        """Call the metadata store or the table from ``threads``, which may wait. The takeover asks again if it must."""

        def work() -> None:
            answer: Standing | Stored | Unanswered
            try:
                answer = call()
            except (RinglogError, OSError) as error:
                answer = Unanswered(shard, nonce, str(error))
            except BaseException as error:  # noqa: BLE001  (nobody foresaw it: the takeover would wait for ever)
                self._on_failure(error)
                return
            self._inbox.put(lambda: self._answer(answer))

        threads.submit(work)

    def _compare_and_set(self, change: CompareAndSet) -> Standing:
        """Write, then say what stands there."""
        state = change.state
        try:
            written = self._store.compare_and_set(shard_key(state.shard), shard_state_to_bytes(state), change.expected)
        except (Conflict, OutcomeUnknown):
            return self._standing(state.shard, state.nonce)
        return Standing(state.shard, state.nonce, state, written.version)

    def _standing(self, shard: str, nonce: str) -> Standing:
        found = self._store.get(shard_key(shard))
        return Standing(
            shard, nonce, shard_state_from_bytes(found.value) if found else None, found.version if found else 0
        )

    def _read_stored(self, question: ReadStored) -> Stored:
        fence = question.fence
        snapshot = self._table.open_or_create() if fence is None else self._table.fence(question.shard, fence)
        return Stored(question.shard, question.nonce, snapshot.stored(question.shard))

    def _unflushed(self) -> list[Unflushed]:
        def collect() -> list[Unflushed]:
            return [
                Unflushed(
                    shard,
                    leader.epoch,
                    leader.trimmed,
                    leader.committed,
                    leader.committed_from(leader.trimmed),
                    leader.waits_for_storing(),
                )
                for shard in self._participants
                if (leader := self._leader(shard)) is not None
            ]

        return self._call(collect)

    def _note_stored(self, shard: str, end: int, fence: int) -> None:
        def trim() -> None:
            if shard in self._participants:
                self._drive(shard, lambda one: one.stored(end, fence))
            self._note_goal(shard, end)

        self._inbox.put(trim)

    def _note_goal(self, shard: str, end: int) -> None:
        with self._trimmed:
            self._stored[shard] = end
            self._trimmed.notify_all()

    def _status(self) -> dict[str, Any]:
        return {
            "actor": self.actor,
            "location": self.location,
            "changes": self._changes,
            **parts({shard: hosted.core for shard, hosted in self._participants.items()}),
            "appended_bytes": self._appended_bytes,
            "archive_trouble": self._archiver.trouble,
        }
