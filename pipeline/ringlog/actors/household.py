"""The household: the actors of one pipeline in a Ray cluster, where they live, and how shard actors move."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util import get_node_ip_address

from ringlog.actors.gcs import data_plane_token
from ringlog.actors.homes import Homes, Kept
from ringlog.actors.housekeeping import COMPACT_EVERY_S, Housekeeping
from ringlog.actors.memory import keep_memory
from ringlog.actors.participants import Place
from ringlog.actors.remote import RemoteActor, end_process, log_with_times, make_actor, running
from ringlog.actors.router import Router
from ringlog.actors.shard import ShardHost
from ringlog.control import Plan, plan_of, shard_names
from ringlog.control.homes import Move
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import MetadataStore, open_store, read_all_decided, read_pipeline
from ringlog.metadata.records import PIPELINE_KEY, pipeline_to_bytes
from ringlog.replication import ShardState
from ringlog.settings import Settings
from ringlog.storage import Table

DECIDED_DEADLINE_S = 3.0
CLOSE_DEADLINE_S = 5.0
ROUTER, HOUSEKEEPER = "router", "housekeeper"
HOUSEKEEPING_LOOK_S = 5.0
ON_THE_HEAD = {"resources": {"node:__internal_head__": 0.001}, "scheduling_strategy": "DEFAULT"}
"""For actors that share the fate of Ray's head anyway: no other node that dies takes them with it.

Never in the placement group of whoever starts the pipeline, which has no part of the head.
"""
ROUTES_WAITING_MAX = 100_000
"""How many clients may wait for newer routes at once. They take memory, not threads."""


class _ShardActor:
    """`ShardHost` as an actor. Its constructor runs again after a crash; who it is stands in its journals."""

    def __init__(self, actor: str, pipeline: str, chosen: Mapping[str, Any]) -> None:
        # Threads hand each other small pieces of work here; the default of 5 ms would be most of an acknowledgement.
        sys.setswitchinterval(0.0005)
        keep_memory()
        log_with_times()
        settings = Settings(**chosen)
        self._pipeline = pipeline
        self._host = ShardHost(
            actor,
            settings,
            _journals_of(settings, pipeline) / actor,
            open_store(settings.root, settings.storage_options(), settings.metadata),
            data_plane_token(pipeline),
            get_node_ip_address(),
            end_process,
        )

    def status(self, locations: Mapping[str, str]) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        return {**self._host.status(locations), "pipeline": self._pipeline, "pid": os.getpid(), "node": node}

    def replica_id(self, shard: str) -> str:
        return self._host.replica_id(shard)

    def take_over(self, shard: str, places: list[tuple[str, str, str]], locations: Mapping[str, str], *how: Any) -> int:
        return self._host.take_over(shard, [Place(*place) for place in places], locations, *how)

    def forget(self, shard: str, epoch: int) -> None:
        self._host.forget(shard, epoch)

    def flush(self, timeout_s: float) -> dict[str, int]:
        return self._host.flush(timeout_s)

    def close(self) -> None:
        self._host.close()


class _HousekeeperActor:
    """`Housekeeping` in a process of its own: what it takes of memory and time, nobody else lacks."""

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        log_with_times()
        settings = Settings(**chosen)
        self._housekeeping = Housekeeping(Table(settings.table_url, settings.storage_options()), settings)
        threading.Thread(target=self._run, name="ringlog-housekeeping", daemon=True).start()

    def trouble(self) -> str | None:
        return self._housekeeping.trouble

    def _run(self) -> None:
        pause = threading.Event()
        pause.wait(COMPACT_EVERY_S)  # whatever has just begun has better things to do
        try:
            while True:
                if self._housekeeping.due(time.time()):
                    self._housekeeping.run(time.time())
                pause.wait(HOUSEKEEPING_LOOK_S)
        except BaseException as error:  # noqa: BLE001  (nobody would keep the table small any more)
            end_process(error)


class Household:
    """The actors of one pipeline, but for the controller: see `actors.surroundings.Household`."""

    def __init__(self, settings: Settings, pipeline: str, chosen: Mapping[str, Any]) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._chosen = chosen
        self._homes = Homes(_journals_of(settings, pipeline), settings.shard_buffer_bytes_max)
        self._store = open_store(settings.root, settings.storage_options(), settings.metadata)
        self._met: set[str] = set()
        self._heard: set[str] = set()  # those that have said where they run since they began there
        self._plan: Plan | None = None

    def plan(self) -> Plan:
        self._plan = read_plan(self._store, self._pipeline, self._plan)
        return self._plan

    def change_shards(self, shards: int) -> None:
        change_shards(self._store, shards, self._settings.replicas)

    def dismiss(self, actor: str) -> None:
        if self._counted(actor):
            raise Unavailable(f"{actor} stays: some shard counts on a journal that it has")
        self._end(actor)
        self._met.discard(actor)

    def summon(self, actor: str, anywhere: bool, groups: Sequence[Collection[str]]) -> RemoteActor | None:
        handle = running(actor)
        if handle is not None and actor not in self._met:  # it outlived an earlier controller
            self._met.add(actor)  # one that does not answer now gives way when it is summoned again
            found = RemoteActor(handle, actor)
            if found.call("status", {})["pipeline"] == self._pipeline:
                return found
        there = handle is not None and self._homes.is_there(actor)
        if there and (actor in self._heard or not anywhere):
            return None
        counted = self._counted(actor)
        if there and counted:
            return None
        home = self._homes.choose(actor, counted, groups, anywhere=anywhere, full=there)
        if handle is not None:
            ray.kill(handle, no_restart=True)
        return self._begin(actor, home)

    def restart(self, actor: str) -> None:
        handle = running(actor)
        if handle is not None:
            ray.kill(handle, no_restart=False)

    def router(self) -> RemoteActor:
        handle = running(ROUTER)
        if handle is not None:
            return RemoteActor(handle, ROUTER)
        options = {**ON_THE_HEAD, "max_concurrency": ROUTES_WAITING_MAX}
        return make_actor(Router, ROUTER, options, self._settings.rebalance_interval_s)

    def keep_housekeeper(self) -> None:
        if running(HOUSEKEEPER) is None:
            make_actor(_HousekeeperActor, HOUSEKEEPER, {"scheduling_strategy": "SPREAD"}, self._chosen)

    def lives(self, actor: str, node: str) -> None:
        self._heard.add(actor)
        self._homes.note(actor, node)

    def leaving(self) -> Collection[str]:
        return self._homes.leaving()

    def next_move(self, groups: Sequence[Collection[str]]) -> Move | None:
        return self._homes.next_move({actor for group in groups for actor in group}, groups)

    def move(self, move: Move) -> RemoteActor:
        if self._counted(move.actor):
            raise Unavailable(f"{move.actor} stays where it is: some shard counts on a journal that it has there")
        if not self._homes.has_room(move.to):
            raise Unavailable(f"{move.actor} stays where it is: {move.to.host} has no room for it any more")
        self._end(move.actor)
        return self._begin(move.actor, self._homes.settle(move.actor, move.to))

    def _end(self, actor: str) -> None:
        """End ``actor`` and take away its journals, but for those on which somebody counts by now, or is about to."""
        handle = running(actor)
        if handle is not None:
            with contextlib.suppress(Unavailable):  # then it is ended without being asked
                RemoteActor(handle, actor).call("close", timeout_s=CLOSE_DEADLINE_S)
            ray.kill(handle, no_restart=True)
        decided = self._decided()
        journals = self._homes.journals(actor)
        self._homes.forget_journals(actor, [one for one in journals if not _needed(one, decided.get(one.shard))])

    def _begin(self, actor: str, home: Any) -> RemoteActor:
        self._met.add(actor)
        self._heard.discard(actor)
        options = {"memory": self._settings.shard_buffer_bytes_max, "scheduling_strategy": home}
        return make_actor(_ShardActor, actor, options, actor, self._pipeline, self._chosen)

    def _counted(self, actor: str) -> set[str]:
        """The ids of the journals of ``actor`` that some shard counts on. Raises `Unavailable` when nobody can say."""
        return {member.id for state in self._decided().values() for member in state.members if member.actor == actor}

    def _decided(self) -> dict[str, ShardState]:
        record, _ = read_pipeline(self._store)
        return read_all_decided(self._store, shard_names(record.most), DECIDED_DEADLINE_S)


def read_plan(store: MetadataStore, pipeline: str, known: Plan | None) -> Plan:
    """Which shards there should be, and what is left of others; ``known`` was true before.

    Raises `Unavailable`; also where the root has another ``pipeline`` now, whose journals are others.
    """
    record, version = read_pipeline(store)
    if record.id != pipeline:
        raise Unavailable(
            "the root was begun anew since this pipeline started: end that with `ringlog down`, then `ringlog up`"
        )
    if known is not None and known.version == version and known.settled:
        return known
    names = shard_names(record.most if record.most > record.shards else 0)
    decided = read_all_decided(store, names, DECIDED_DEADLINE_S)
    return plan_of(version, record.shards, record.most, decided)


def change_shards(store: MetadataStore, shards: int, replicas: int) -> None:
    """Decide that there should be so many.

    Raises `ConfigurationError`, `Conflict`, `Unavailable`, or `OutcomeUnknown` where nobody can say if it was decided.
    """
    if shards < replicas:
        raise ConfigurationError(
            f"{replicas} copies of everything need as many shard actors: give at least {replicas} shards, not {shards}"
        )
    record, version = read_pipeline(store)
    if record.shards == shards:
        return
    changed = record.changed(shards)
    try:
        store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(changed), version)
    except (Conflict, OutcomeUnknown) as error:
        try:
            stands, _ = read_pipeline(store)
        except Unavailable:
            raise error from None
        if stands.nonce != changed.nonce:
            raise Conflict(f"somebody else chose {stands.shards} shards meanwhile: look, and decide") from None


def _needed(journal: Kept, state: ShardState | None) -> bool:
    """Whether the shard counts on ``journal``, or may do so as soon as what has claimed it opens."""
    if state is None:
        return False
    opening = state.state == "claimed" and journal.promised >= state.epoch
    return opening or journal.id in {member.id for member in state.members}


def _journals_of(settings: Settings, pipeline: str) -> Path:
    """The folder of a pipeline's journals on each node; in it is one for each shard actor."""
    return Path(settings.journal_dir) / pipeline
