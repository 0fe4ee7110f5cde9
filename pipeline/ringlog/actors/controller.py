"""The controller: keeps the shard actors there, every shard led, the router told. Safety needs nothing of it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from ringlog.control import Reconciler, TakeOver
from ringlog.control.reconcile import leader_of
from ringlog.errors import RinglogError, Unavailable

_logger = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
CALL_DEADLINE_S = 3.0
TAKEOVER_DEADLINE_S = 20.0


class Remote(Protocol):
    """An actor elsewhere."""

    def call(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        """Its answer. Raises `Unavailable` when there is none in time, and whatever ringlog error the method raised."""


class Controller:
    """Watches the shard actors of one pipeline; ``summon`` finds the actor of a name, or makes it."""

    def __init__(
        self,
        actors: Sequence[str],
        replicas: int,
        quorum: int,
        summon: Callable[[str], Remote],
        router: Remote,
    ) -> None:
        self._reconciler = Reconciler(actors, actors, replicas, quorum)
        self._router = router
        self._token = secrets.token_hex(32)
        self._summon = summon
        self._shards: dict[str, Remote] = {}
        self._trouble: dict[str, str] = {}
        self._busy: set[str] = set()
        self._closed = threading.Event()
        self._calls = ThreadPoolExecutor(2 * len(actors) + 2, thread_name_prefix="ringlog-call")
        self._thread = threading.Thread(target=self._run, name="ringlog-controller", daemon=True)

    def begin(self, known_token: str | None) -> None:
        """Start watching. ``known_token`` is that of shard actors that outlived an earlier controller."""
        if known_token:
            self._token = known_token
        self._thread.start()

    def token(self) -> str:
        """The secret that the data plane asks for."""
        return self._token

    def status(self) -> dict[str, Any]:
        """What is known of every shard and shard actor."""
        statuses, trouble = self._observe(), dict(self._trouble)
        shards = {}
        for shard in self._reconciler.actors:
            leader = leader_of(shard, statuses)
            led = statuses[leader]["leading"][shard] if leader else {}
            shards[shard] = {"leader": leader, **led, "trouble": trouble.get(shard)}
        return {"shards": shards, "actors": statuses}

    def flush(self, timeout_s: float) -> dict[str, int]:
        """Archive what every shard has committed. Raises `Unavailable`, naming what is not archived."""
        calls = {
            actor: self._calls.submit(shard.call, "flush", timeout_s, timeout_s=timeout_s + CALL_DEADLINE_S)
            for actor, shard in self._shards.items()
        }
        stored: dict[str, int] = {}
        errors = []
        for actor, call in calls.items():
            try:
                stored.update(call.result())
            except RinglogError as error:
                errors.append(f"{actor}: {error}")
        if errors:
            raise Unavailable("; ".join(errors))
        return stored

    def close(self) -> None:
        """Let every shard actor close its journals."""
        self._closed.set()
        self._thread.join()
        for call in [
            self._calls.submit(shard.call, "close", timeout_s=CALL_DEADLINE_S) for shard in self._shards.values()
        ]:
            try:
                call.result()
            except Unavailable as error:
                _logger.warning("a shard actor did not close in time; its journal is safe all the same: %s", error)

    def _run(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._round()
            except RinglogError as error:
                _logger.warning("this round of the controller failed; the next one begins anew: %s", error)
            self._closed.wait(max(0.0, HEARTBEAT_S - (time.monotonic() - began)))

    def _round(self) -> None:
        for actor in self._reconciler.actors:
            if actor not in self._shards:
                self._shards[actor] = self._summon(actor)
        statuses = self._observe()
        self._publish(statuses)
        for takeover in self._reconciler.decide(statuses, time.monotonic()):
            if takeover.shard not in self._busy:
                self._busy.add(takeover.shard)
                self._calls.submit(self._take_over, takeover, statuses)

    def _observe(self) -> dict[str, dict[str, Any]]:
        """The status of every shard actor that answers in time."""
        calls = {
            actor: self._calls.submit(shard.call, "status", timeout_s=CALL_DEADLINE_S)
            for actor, shard in list(self._shards.items())
        }
        statuses: dict[str, dict[str, Any]] = {}
        for actor, call in calls.items():
            try:
                statuses[actor] = call.result()
            except RinglogError as error:
                _logger.debug("%s does not answer: %s", actor, error)
        return statuses

    def _publish(self, statuses: Mapping[str, Mapping[str, Any]]) -> None:
        leaders, committed = {}, {}
        for shard in self._reconciler.actors:
            actor = leader_of(shard, statuses)
            if actor is not None:
                committed[shard] = statuses[actor]["leading"][shard]["committed"]
                leaders[shard] = {
                    "shard": shard,
                    "actor": actor,
                    "location": statuses[actor]["location"],
                    "epoch": statuses[actor]["leading"][shard]["epoch"],
                }
        taken = {actor: status["appended_bytes"] for actor, status in statuses.items()}
        self._router.call("publish", leaders, committed, taken, timeout_s=CALL_DEADLINE_S)

    def _take_over(self, takeover: TakeOver, statuses: Mapping[str, Mapping[str, Any]]) -> None:
        shard = takeover.shard
        try:
            locations = {actor: status["location"] for actor, status in statuses.items()}
            places = []
            for actor in takeover.members:
                id = self._shards[actor].call("replica_id", shard, timeout_s=CALL_DEADLINE_S)
                places.append((id, actor, locations[actor]))
            candidate = self._shards[takeover.candidate]
            candidate.call("take_over", shard, places, locations, timeout_s=TAKEOVER_DEADLINE_S)
            self._trouble.pop(shard, None)
        except Exception as error:  # noqa: BLE001  (shown in status, and tried again)
            self._trouble[shard] = f"{type(error).__name__}: {error}"
            _logger.warning("%s could not be taken over and will be tried again: %s", shard, error)
            self._reconciler.failed(shard, time.monotonic())
        finally:
            self._busy.discard(shard)
