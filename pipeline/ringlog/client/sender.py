"""What a client does in the background: it routes, batches and sends, and settles what callers wait for."""

from __future__ import annotations

import copy
import logging
import queue
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from ringlog.client.batcher import Batcher, Group
from ringlog.client.producer import Batch, Producer, Step
from ringlog.client.transport import Connection, Transport
from ringlog.errors import OutcomeUnknown, Overloaded, PipelineEnded, RinglogError, Unavailable
from ringlog.replication import Acks
from ringlog.routing import Keys, Leading, Routes
from ringlog.schema import cut, pack, with_values
from ringlog.wire import Acknowledged, Inbox, decode, encode

_logger = logging.getLogger(__name__)

REFRESH_S = 5.0
"""How old routes may get while something is being sent."""
LACKING_S = 0.25
"""The same of routes that lack the leader of a shard: it has another soon, and until then the others have its work."""
RETRY_S = 0.1
"""How long to wait for the router, or a leader that is in the routes and does not answer, before it is asked again."""
NEWER_S = 0.25
"""How long the router holds a question for newer routes: after that, the leader of the old ones is dialled again."""
FETCH_ENDS_S = 5.0
"""How long a client that closes waits for a question to the router that is under way."""
SUSPECT_S = 1.0
"""How long a leader may owe an answer before newer routes are looked for: one that was stopped keeps its streams."""


@dataclass(frozen=True)
class Part:
    """Offsets ``[start, end)`` of ``shard``, written in ``epoch``."""

    shard: str
    epoch: int
    start: int
    end: int


@dataclass(eq=False)
class Submission:
    """One call of a user: settled when every part is. ``awaited``: its caller does nothing but wait."""

    future: Future[list[Part]]
    nbytes: int
    timeout_s: float
    deadline: float
    awaited: bool
    open: int = 0
    parts: list[Part] = field(default_factory=list)
    error: RinglogError | None = None


@dataclass(frozen=True)
class _Piece:
    submission: Submission
    rows: int


@dataclass(eq=False)
class _Dial:
    """One attempt to have a stream to a leader. Opening may take long, so it has a thread of its own."""

    leading: Leading


class Sender:
    """Sends batches of records over ``transport`` in the background; safe for several threads.

    At most ``client_buffer_bytes_max`` bytes are held without an acknowledgement.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._settings = transport.settings
        self._name = uuid.uuid4().hex
        self._routes: Routes = transport.routes({})
        self._refreshed = time.monotonic()
        self._refreshing = False
        self._fetching: threading.Thread | None = None  # the newest
        self._awaiting: list[tuple[Submission, Callable[[], None]]] = []  # what is tried again with the next routes
        self._producers: defaultdict[str, dict[str, Producer]] = defaultdict(dict)  # of each shard, by name
        self._dials: dict[str, _Dial] = {}  # of each shard the newest, until its stream ends
        self._connections: dict[str, Connection] = {}
        self._owing_since: dict[str, float] = {}
        self._key_bytes: defaultdict[int, int] = defaultdict(int)
        self._batcher = Batcher(
            self._settings.batch_rows_max, self._settings.batch_bytes_max, self._settings.linger_ms / 1000
        )
        self._room = threading.Condition()
        self._held_bytes = 0
        self._unsettled: set[Submission] = set()
        self._over: str | None = None  # why nothing is sent any more
        self._replaced: PipelineEnded | None = None
        # What a user hangs on a future may take long, or call back: it holds up nothing here.
        self._settled: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._keep_telling, name="ringlog-told", daemon=True)
        self._teller.start()
        self._inbox = Inbox("ringlog-sender", self._tick, self._wake, self._fail)

    @property
    def routes(self) -> Routes:
        """The routes that are known now."""
        return self._routes

    @property
    def is_over(self) -> bool:
        """Whether it sends nothing any more: it was closed, or has failed."""
        return self._over is not None

    def submit(
        self, batch: pa.RecordBatch, acks: Acks, timeout_s: float, *, linger: bool, wait_s: float
    ) -> Future[list[Part]]:
        """Put ``batch`` on its way. With ``linger`` it may wait for company.

        Raises `Overloaded` when there is no room for it within ``wait_s``, and `Unavailable` when all is over.
        """
        batch = with_values(batch)
        submission = Submission(Future(), batch.nbytes, timeout_s, time.monotonic() + timeout_s, not linger)
        with self._room:
            fits = self._room.wait_for(
                lambda: (
                    self._over is not None
                    or self._held_bytes == 0
                    or self._held_bytes + submission.nbytes <= self._settings.client_buffer_bytes_max
                ),
                wait_s,
            )
            if not fits:
                raise Overloaded(
                    f"{self._held_bytes} bytes wait for their acknowledgement in this process: submit less, or raise "
                    "client_buffer_bytes_max"
                )
            if self._over is not None:
                raise Unavailable(f"this pipeline {self._over}, and sends nothing any more: connect again")
            self._held_bytes += submission.nbytes
            self._unsettled.add(submission)
        self._inbox.hand(lambda: self._take(batch, acks, submission, linger))
        return submission.future

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything submitted so far is settled, whatever comes meanwhile; False when time ran out."""
        deadline = time.monotonic() + timeout_s
        self._inbox.hand(lambda: self._pack(self._batcher.take()))
        with self._room:
            waited_for = set(self._unsettled)
            if not self._room.wait_for(lambda: waited_for.isdisjoint(self._unsettled), timeout_s):
                return False
        if self._over is not None or threading.current_thread() is self._teller:
            return True  # nobody tells any more; or it is a user's callback that waits here, and its thread tells
        told = threading.Event()
        self._settled.put(told.set)
        return told.wait(max(0.0, deadline - time.monotonic()))

    def refresh(self) -> Routes:
        """Fetch the newest routes now, from the calling thread. Raises `PipelineEnded`, and then all is over here."""
        if self._replaced is not None:
            raise copy.copy(self._replaced)
        try:
            routes = self._transport.routes({})
        except PipelineEnded as error:
            self._note_ended(error)
            raise
        self._inbox.hand(lambda: self._take_routes(routes))
        return routes

    def _note_ended(self, error: PipelineEnded) -> None:
        """Nobody takes what is sent, and never will: whoever comes next connects to what runs by then."""
        why = f"has ended ({error})"
        with self._room:
            self._replaced, self._over = error, self._over or why
        self._inbox.hand(partial(self._give_up, why))
        self._inbox.hand(partial(self._end, why))

    def close(self) -> None:
        """Send nothing any more. Whoever still waits is told: not stored, where nothing was sent, or not known."""
        self._inbox.hand(partial(self._give_up, "was closed"))
        self._inbox.close()
        self._end("was closed")
        self._settled.put(None)
        if self._fetching is not None:
            # A call of Ray's that is left behind ends a process that leaves Ray, with code 1.
            self._fetching.join(FETCH_ENDS_S)
        for connection in self._connections.values():
            connection.close()
        for connection in self._connections.values():
            connection.join()

    # Everything below is run by the inbox.

    def _wake(self) -> float | None:
        wakes = [producer.wake() for _, producer in self._each()]
        wakes += [self._batcher.wake(), self._suspects_at()]
        return min((one for one in wakes if one is not None), default=None)

    def _tick(self, now: float) -> None:
        self._pack(self._batcher.take(now))
        for shard, producer in self._each():
            self._do(shard, producer.tick(now))
        suspects_at = self._suspects_at()
        if suspects_at is not None and suspects_at <= now:
            self._refresh(SUSPECT_S)

    def _suspects_at(self) -> float | None:
        """When the leader that owes an answer for longest should have been replaced, if it is to be."""
        if self._refreshing or not self._owing_since:
            return None
        return max(min(self._owing_since.values()) + SUSPECT_S, self._refreshed)

    def _take(self, batch: pa.RecordBatch, acks: Acks, submission: Submission, linger: bool) -> None:
        now = time.monotonic()
        lacking = bool(self._routes.missing)
        if now - self._refreshed > (LACKING_S if lacking else REFRESH_S):
            self._refresh(NEWER_S if lacking else 0.0)
        keys = Keys.of(batch)
        try:
            assigned = self._routes.assign(batch, keys, (random.random(), random.random()))
        except Unavailable as error:
            self._await_leaders(error, submission, lambda: self._take(batch, acks, submission, linger))
            return
        self._measure(batch, keys)
        pieces = [
            (shard, piece)
            for shard, part in assigned
            for piece in cut(part, self._settings.batch_rows_max, self._settings.batch_bytes_max)
        ]
        submission.open = len(pieces)
        if not pieces:
            self._settle(submission, None)
        for shard, piece in pieces:
            caller = _Piece(submission, piece.num_rows)
            self._pack(list(self._batcher.add((shard, acks, submission.timeout_s), piece, caller, now)))
        if not linger:
            self._pack(self._batcher.take())

    def _await_leaders(self, error: Unavailable, submission: Submission, again: Callable[[], None]) -> None:
        if time.monotonic() >= submission.deadline:
            self._settle(submission, copy.copy(error))
            return
        self._awaiting.append((submission, again))
        self._refresh(NEWER_S)

    def _measure(self, batch: pa.RecordBatch, keys: Keys) -> None:
        """What each key brings, for the router's bounded loads; proportional to its records is near enough."""
        each = batch.nbytes // max(1, batch.num_rows)
        for key, count in keys.loads().items():
            self._key_bytes[key] += count * each

    def _pack(self, groups: list[tuple[Any, Group]]) -> None:
        now = time.monotonic()
        for (shard, acks, _), group in groups:
            callers = [caller for _, caller in group.pieces]
            deadline = min(caller.submission.deadline for caller in callers)
            batch = Batch(pack(group.batch()), group.rows, acks, deadline, callers)
            self._hand(shard, batch, now)

    def _hand(self, shard: str, batch: Batch, now: float) -> None:
        producer = self._producer(shard, batch.acks == "stored")
        self._do(shard, producer.submit(batch, now))
        if producer.leader_epoch is None:  # its stream ended while nothing was on its way
            self._connect(shard)

    def _producer(self, shard: str, stored: bool) -> Producer:
        """One of its own for what waits for the table: that may be away while journals go on acknowledging."""
        name = f"{self._name}-stored" if stored else self._name
        producers = self._producers[shard]
        if name not in producers:
            producers[name] = Producer(shard, name)
            dial = self._dials.get(shard)
            if shard in self._connections and dial is not None:
                self._begin(shard, dial.leading, producers[name])
            else:
                self._connect(shard)
        return producers[name]

    def _each(self) -> list[tuple[str, Producer]]:
        """Every producer with its shard."""
        return [(shard, producer) for shard, named in self._producers.items() for producer in named.values()]

    def _connect(self, shard: str) -> None:
        leading = self._routes.leaders.get(shard)
        dialling = self._dials.get(shard)
        if dialling is not None and dialling.leading == leading and shard not in self._connections:
            return
        self._hang_up(shard)
        if leading is None:
            self._refresh(NEWER_S)
            return
        dial = self._dials[shard] = _Dial(leading)

        def closed() -> None:
            self._inbox.put(lambda: self._closed(shard, dial))

        def open_stream() -> None:
            try:
                connection: Connection | None = self._transport.connect(dial.leading, self._received, closed)
            except Exception as error:  # noqa: BLE001  (whatever gRPC raises: it is dialled again)
                _logger.debug("%s: %s", shard, error)
                connection = None
            self._inbox.put(lambda: self._connected(shard, dial, connection))

        threading.Thread(target=open_stream, name="ringlog-dial", daemon=True).start()

    def _connected(self, shard: str, dial: _Dial, connection: Connection | None) -> None:
        if self._dials.get(shard) is not dial:  # it ended already, or another leader is dialled
            if connection is not None:
                connection.close()
        elif connection is None:
            del self._dials[shard]
            self._refresh(NEWER_S)
        else:
            self._connections[shard] = connection
            for producer in self._producers[shard].values():
                self._begin(shard, dial.leading, producer)

    def _begin(self, shard: str, leading: Leading, producer: Producer) -> None:
        """The stream to the leader is open."""
        committed = self._routes.committed.get(shard, 0)
        self._do(shard, producer.connected(leading.epoch, committed, time.monotonic()))

    def _closed(self, shard: str, dial: _Dial) -> None:
        if self._dials.get(shard) is dial:
            self._hang_up(shard)
            for producer in self._producers[shard].values():
                self._do(shard, producer.disconnected())

    def _hang_up(self, shard: str) -> None:
        self._dials.pop(shard, None)
        self._owing_since.pop(shard, None)
        connection = self._connections.pop(shard, None)
        if connection is not None:
            connection.close()

    def _received(self, frame: memoryview) -> None:
        message = decode(frame)
        self._inbox.put(lambda: self._answered(message))

    def _answered(self, message: Any) -> None:
        producer = self._producers[message.shard].get(message.producer)
        if producer is None:
            return
        self._owing_since.pop(message.shard, None)
        handle: Any = producer.acknowledged if isinstance(message, Acknowledged) else producer.declined
        self._do(message.shard, handle(message, time.monotonic()))

    def _do(self, shard: str, step: Step) -> None:
        connection = self._connections.get(shard)
        if connection is not None:
            for submit in step.send:
                connection.send(encode(submit))
            if any(map(len, self._producers[shard].values())):
                self._owing_since.setdefault(shard, time.monotonic())
        self._conclude(shard, step.results)
        if step.routes:
            self._refresh(NEWER_S)

    def _conclude(self, shard: str, results: list[tuple[Any, Acknowledged | RinglogError]]) -> None:
        for pieces, result in results:
            start = result.start if isinstance(result, Acknowledged) else 0
            for piece in pieces:
                if isinstance(result, Acknowledged):
                    piece.submission.parts.append(Part(shard, result.epoch, start, start + piece.rows))
                    start += piece.rows
                elif piece.submission.error is None or isinstance(result, OutcomeUnknown):
                    # Of several, "may be stored" is the one to be told. Each caller raises one of its own.
                    piece.submission.error = copy.copy(result)
                piece.submission.open -= 1
                if piece.submission.open == 0:
                    self._settle(piece.submission, piece.submission.error)

    def _settle(self, submission: Submission, error: RinglogError | None) -> None:
        with self._room:
            if submission not in self._unsettled:
                return  # all is over, and it was told so
            self._unsettled.discard(submission)
            self._held_bytes -= submission.nbytes
            self._room.notify_all()
        if submission.awaited:
            _tell(submission, error)
        else:
            self._settled.put(partial(_tell, submission, error))

    def _keep_telling(self) -> None:
        """In a thread that nobody waits for: what it runs is the users', and what they raise is theirs."""
        while (tell := self._settled.get()) is not None:
            try:
                tell()
            except BaseException:  # also SystemExit: whoever waits for a later future must be told
                _logger.exception("what hangs on a future of submit_logs raised this")

    def _refresh(self, wait_s: float) -> None:
        """Fetch routes from a thread that may wait ``wait_s`` for newer ones; producers without a connection get one.

        One fetch is under way at a time, however many wait for it.
        """
        if self._refreshing:
            return
        self._refreshing = True
        sent, self._key_bytes = dict(self._key_bytes), defaultdict(int)
        known = self._routes.version

        def fetch() -> None:
            routes: Routes | None = None
            try:
                routes = self._transport.routes(sent, known, wait_s)
            except PipelineEnded as error:
                self._note_ended(error)
                return
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: it is asked again)
                _logger.debug("no routes now: %s", error)
                threading.Event().wait(RETRY_S)
            self._inbox.put(lambda: self._refetched(routes))

        self._fetching = threading.Thread(target=fetch, name="ringlog-routes", daemon=True)
        self._fetching.start()

    def _refetched(self, routes: Routes | None) -> None:
        self._refreshing = False
        self._refreshed = time.monotonic()
        if routes is not None:
            self._take_routes(routes)
        for shard, producer in self._each():
            dialled = shard in self._dials or shard in self._connections
            if len(producer) and (producer.leader_epoch is None or not dialled):
                self._connect(shard)
        awaiting, self._awaiting = self._awaiting, []
        for _, again in awaiting:
            again()

    def _leave(self, shard: str, producer: Producer) -> None:
        """It is retired: what is surely not stored there goes to another shard, what may be is told so."""
        try:
            other = self._routes.ring.owner(shard.encode())
        except Unavailable:
            return  # with later routes
        step, elsewhere = producer.retired()
        self._do(shard, step)
        for batch in elsewhere:
            self._hand(other, batch, time.monotonic())

    def _fail(self, error: BaseException) -> None:
        """An event raised what nothing foresees: nothing more is sent."""
        _logger.critical("nothing is sent any more; connect again, and report this: %s", error, exc_info=error)
        self._end(f"has failed ({error})")

    def _give_up(self, why: str) -> None:
        """The last event of a sender: what was never sent is surely not stored."""
        unsent = Unavailable(f"the pipeline {why} before these records were sent")
        for submission, _ in self._awaiting:
            self._settle(submission, copy.copy(unsent))
        for (shard, _, _), group in self._batcher.take():
            self._conclude(shard, [([caller for _, caller in group.pieces], unsent)])
        for shard, producer in self._each():
            step, clean = producer.retired()
            self._conclude(shard, [*step.results, *((batch.caller, unsent) for batch in clean)])

    def _end(self, why: str) -> None:
        """Take nothing any more; whoever waits is told what can be known."""
        with self._room:
            self._over = self._over or why
            lost = list(self._unsettled)
            self._room.notify_all()
        for submission in lost:
            error = OutcomeUnknown(
                f"the pipeline {why} before these records were acknowledged: they may be stored. Look with "
                "ringlog.sql() before submitting them again"
            )
            self._settle(submission, error)

    def _take_routes(self, routes: Routes) -> None:
        if routes.replaces(self._routes):
            self._routes = routes
        for shard, producer in self._each():
            if len(producer) and shard not in self._routes.shards:
                self._leave(shard, producer)
        for shard, producer in self._each():
            leading = self._routes.leaders.get(shard)
            if leading is not None and producer.leader_epoch is not None and leading.epoch > producer.leader_epoch:
                self._connect(shard)  # a leader that was stopped keeps its streams, and says nothing


def _tell(submission: Submission, error: RinglogError | None) -> None:
    if error is not None:
        submission.future.set_exception(_of_all(error, submission.parts))
    else:
        submission.future.set_result(submission.parts)


def _of_all(error: RinglogError, parts: list[Part]) -> RinglogError:
    """What became of a whole call, of which ``parts`` are stored and the rest met ``error``."""
    if not parts:
        return error
    stored = ", ".join(f"{part.shard} [{part.start}, {part.end})" for part in parts)
    return OutcomeUnknown(
        f"some of these records are stored: {stored}. Of the others: {error}. Look with ringlog.sql() before "
        "submitting them again"
    )
