"""A pipeline on Ray: plain classes become detached actors here, and clients find them here."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from ringlog.actors import gcs
from ringlog.actors.controller import ACCEPT_LOSS_DEADLINE_S, Controller
from ringlog.actors.household import DECIDED_DEADLINE_S, Household, read_plan
from ringlog.actors.housekeeping import COMPACT_EVERY_S, Housekeeping
from ringlog.actors.remote import (
    CALL_DEADLINE_S,
    NAMESPACE,
    RemoteActor,
    end_process,
    find_actor,
    log_with_times,
    make_actor,
)
from ringlog.actors.router import Router
from ringlog.control import condition_of
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import MetadataStore, open_store, read_decided
from ringlog.metadata.records import PIPELINE_KEY, PipelineRecord, pipeline_from_bytes, pipeline_to_bytes
from ringlog.replication import ShardState
from ringlog.settings import Settings
from ringlog.storage import Table

CONTROLLER, ROUTER, HOUSEKEEPER = "controller", "router", "housekeeper"
START_DEADLINE_S = 60.0
END_DEADLINE_S = 10.0
"""How long the names of actors that were ended may stay."""
ROUTES_DEADLINE_S = 3.0
"""How long the router may be silent, beyond what it was asked to wait."""
HOUSEKEEPING_LOOK_S = 5.0
HOUSEKEEPER_DEADLINE_S = 2.0
ON_THE_HEAD = {"resources": {"node:__internal_head__": 0.001}, "scheduling_strategy": "DEFAULT"}
"""For actors that share the fate of Ray's head anyway: no other node that dies takes them with it.

Never in the placement group of whoever starts the pipeline, which has no part of the head.
"""
ROUTES_WAITING_MAX = 100_000
"""How many clients may wait for newer routes at once. They take memory, not threads."""
_POLL_S = 0.1


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


class _ControllerActor(Controller):
    """`Controller` as an actor."""

    def __init__(self, pipeline: str, chosen: Mapping[str, Any]) -> None:
        log_with_times()
        settings = Settings(**chosen)
        self._pipeline = pipeline
        self._chosen = dict(chosen)
        try:
            _end_actors_of_others(pipeline)
            token = gcs.data_plane_token(pipeline)
        except Unavailable as error:
            end_process(error)  # Ray starts again whoever ends, but not whom an exception kept from beginning
        household = Household(settings, pipeline, self._chosen)
        options = {**ON_THE_HEAD, "max_concurrency": ROUTES_WAITING_MAX}
        router = make_actor(Router, ROUTER, options, settings.rebalance_interval_s)
        make_actor(_HousekeeperActor, HOUSEKEEPER, {"scheduling_strategy": "SPREAD"}, self._chosen)
        super().__init__(settings.replicas, settings.quorum, household, router, token)
        self.begin()

    def describe(self) -> dict[str, Any]:
        """The pipeline's id, and its settings."""
        chosen = {**self._chosen, "shards": self.shards_wanted() or self._chosen["shards"]}
        return {"pipeline": self._pipeline, "settings": chosen}


def _end_actors_of_others(pipeline: str) -> None:
    """End what outlived a pipeline of another root here: it would answer under the names of this one's actors."""
    if gcs.owner() == pipeline:
        return
    deadline = time.monotonic() + END_DEADLINE_S
    pause = threading.Event()
    while others := set(_names()) - {CONTROLLER}:
        if time.monotonic() > deadline:
            raise Unavailable(f"these do not end: {', '.join(sorted(others))}")
        for name in others:
            _end(name)
        pause.wait(_POLL_S)
    gcs.own(pipeline)


def _housekeeping_trouble() -> str | None:
    """Why the table is not kept small now, or None."""
    try:
        trouble: str | None = find_actor(HOUSEKEEPER).call("trouble", timeout_s=HOUSEKEEPER_DEADLINE_S)
    except Unavailable as error:
        return str(error)
    return trouble


def join_ray(start_local: bool) -> None:
    """Be part of the Ray cluster that is there; where there is none, start one in this process if ``start_local``.

    Raises `Unavailable` where there is none, or where this process cannot be part of one.
    """
    if _forked:
        raise Unavailable(
            "this process was forked from one that is part of a Ray cluster, and Ray does not outlive that: submit in "
            "the parent, or start processes by spawn (multiprocessing_context='spawn' of a DataLoader)"
        )
    if ray.is_initialized():
        return
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError:
        if not start_local:
            raise Unavailable(
                "no Ray cluster was found: start one with `ringlog up` or `ray start --head`, or set RAY_ADDRESS"
            ) from None
        ray.init(address="local", log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)


def _note_fork() -> None:
    global _forked  # noqa: PLW0603  (it is one fact about this process)
    _forked = ray.is_initialized()


_forked = False  # from a process that was part of a Ray cluster, whose threads and connections this one lacks
os.register_at_fork(after_in_child=_note_fork)


def begin_ray() -> str:
    """Start a Ray of this process's own, on loopback, whatever cluster is there; its address. `leave_ray` ends it."""
    ray.init(
        address="local", _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.WARNING,
        include_dashboard=False,
    )  # fmt: skip
    return str(ray.get_runtime_context().gcs_address)


def leave_ray() -> None:
    """Leave the Ray cluster; a local one that was started in this process ends."""
    ray.shutdown()


def start(settings: Settings) -> Cluster:
    """Start the pipeline in the Ray cluster of this process, or find the one that runs there already."""
    try:
        cluster = connect()
    except Unavailable:
        cluster = _begin(settings)
    if cluster.settings.root != settings.root:
        raise ConfigurationError(
            f"a pipeline runs here already, with root {cluster.settings.root}: stop it with `ringlog down` first"
        )
    _require_shards(settings, cluster.settings.shards)
    cluster.await_leaders(START_DEADLINE_S)
    return cluster


def _begin(settings: Settings) -> Cluster:
    record = _record(settings)
    _require_shards(settings, record.shards)
    if settings.replicas > record.shards:
        raise ConfigurationError(
            f"{settings.root} has shards={record.shards}, and replicas={settings.replicas} needs as many: give "
            f"replicas={record.shards} or fewer"
        )
    chosen = {**settings.public(), "shards": record.shards}
    make_actor(_ControllerActor, CONTROLLER, ON_THE_HEAD, record.id, chosen)
    return connect()


def connect() -> Cluster:
    """The pipeline that runs in the Ray cluster of this process. Raises `Unavailable`."""
    return Cluster(find_actor(CONTROLLER))


def _record(settings: Settings) -> PipelineRecord:
    """The record of the pipeline of this root, made when the root is first used."""
    store = open_store(settings.root, settings.storage_options(), settings.metadata)
    made = PipelineRecord.new(settings.shards)
    try:
        store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(made), 0)
    except (Conflict, OutcomeUnknown):
        found = store.get(PIPELINE_KEY)
        return pipeline_from_bytes(found.value) if found else made
    return made


def _require_shards(settings: Settings, shards: int) -> None:
    """Whoever names a number of shards, anywhere, must mean the one that there is: to change it moves data."""
    if "shards" in settings.model_fields_set and settings.shards != shards:
        raise ConfigurationError(
            f"{settings.root} has shards={shards}, not {settings.shards}: leave the setting out, or change the number "
            f"of the pipeline that runs with `ringlog shards {settings.shards}`"
        )


class Cluster:
    """The control plane of one running pipeline, as a client sees it."""

    def __init__(self, controller: RemoteActor) -> None:
        self._controller = controller
        self._router: RemoteActor | None = None
        self._lost_router = False
        found = controller.call("describe", timeout_s=START_DEADLINE_S)
        self._pipeline: str = found["pipeline"]
        self.settings = Settings(**found["settings"])
        self.token = gcs.data_plane_token(self._pipeline)
        self._store: MetadataStore | None = None

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> dict[str, Any]:
        """The newest routes, as plain values: see `Router.routes`. Raises `Unavailable`."""
        router = self._router or self._find_router()
        try:
            asked = (dict(key_bytes), known, wait_s)
            plain: dict[str, Any] = router.call("routes", *asked, timeout_s=wait_s + ROUTES_DEADLINE_S)
        except Unavailable:
            self._router, self._lost_router = None, True
            raise
        self._router = router
        return plain

    def _find_router(self) -> RemoteActor:
        """The router of this pipeline, also after that was ended and started again. Raises `Unavailable`."""
        if self._lost_router:
            controller = find_actor(CONTROLLER)
            found = controller.call("describe", timeout_s=ROUTES_DEADLINE_S)
            if found["pipeline"] != self._pipeline:
                raise Unavailable(
                    f"the pipeline of {self.settings.root} has ended, and one of {found['settings']['root']} runs here "
                    "now: close this one, and call ringlog.connect() again"
                )
            self._controller = controller
        return find_actor(ROUTER)

    def await_leaders(self, timeout_s: float) -> None:
        """Wait until every shard is led. Raises `Unavailable`, saying which is not and why."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            try:
                routes = self.routes({})
            except Unavailable:
                routes = {"shards": ["every shard"], "leaders": {}}
            missing = set(routes["shards"]) - set(routes["leaders"])
            if not missing:
                return
            if time.monotonic() >= deadline:
                trouble = {name: shard["trouble"] for name, shard in self.status()["shards"].items()}
                raise Unavailable(f"not led after {timeout_s:g} s: {sorted(missing)}; {trouble}")
            pause.wait(_POLL_S)

    def flush(self, timeout_s: float) -> None:
        """Archive what is committed. Raises `Unavailable`."""
        self._controller.call("flush", timeout_s, timeout_s=timeout_s + CALL_DEADLINE_S)

    def status(self) -> dict[str, Any]:
        """Every shard and shard actor, and what the metadata store says of the shards."""
        settings = self.settings
        found: dict[str, Any] = self._controller.call("status")
        decided, trouble = self._decided(found["shards"])
        for shard, one in found["shards"].items():
            one.update(condition_of(shard, found["actors"], decided.get(shard), settings.replicas))
        return {
            "root": settings.root,
            "journal_dir": settings.journal_dir,
            "metadata_trouble": trouble,
            "housekeeping_trouble": _housekeeping_trouble(),
            **found,
        }

    def change_shards(self, shards: int) -> None:
        """Have so many shards from now on; see `Controller.change_shards`."""
        self._controller.call("change_shards", shards)

    def accept_loss(self, shard: str) -> int:
        """Open ``shard`` without the members that do not answer; see `Controller.accept_loss`."""
        epoch: int = self._controller.call("accept_loss", shard, timeout_s=ACCEPT_LOSS_DEADLINE_S)
        return epoch

    def shards(self) -> tuple[str, ...]:
        """The shards that are not retired, as the metadata store has it. Raises `Unavailable`."""
        settings = self.settings
        try:
            self._store = self._store or open_store(settings.root, settings.storage_options(), settings.metadata)
        except ConfigurationError as error:  # a client may do without what the actors need
            raise Unavailable(f"which shards there are cannot be read here: {error}") from error
        return read_plan(self._store, None).led

    def _decided(self, shards: Iterable[str]) -> tuple[dict[str, ShardState], str | None]:
        settings = self.settings
        try:
            self._store = self._store or open_store(settings.root, settings.storage_options(), settings.metadata)
        except ConfigurationError as error:  # a client may do without what the actors need
            return {}, str(error)
        return read_decided(self._store, shards, DECIDED_DEADLINE_S)

    def stop(self) -> None:
        """Close the journals and end the actors. What was not archived waits in the journals for the next start."""
        self._controller.call("close", timeout_s=START_DEADLINE_S)
        _end(CONTROLLER)  # first: it would bring the others back
        for name in _names():  # also those that it did not know of yet
            _end(name)


def _names() -> list[str]:
    """The actors of pipelines in this Ray cluster."""
    found = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in found if one["namespace"] == NAMESPACE]


def _end(name: str) -> None:
    with contextlib.suppress(ValueError):  # it is not there any more
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)


def process_fields() -> dict[str, Any]:
    """What Ray knows of the calling code, as columns of a record; nothing outside Ray."""
    if not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    in_task = context.worker.mode == ray.WORKER_MODE
    return {
        "ray_job_id": context.get_job_id(),
        "ray_node_id": context.get_node_id(),
        "ray_worker_id": context.get_worker_id(),
        "ray_actor_id": context.get_actor_id(),
        "ray_actor_name": context.get_actor_name() or None if context.get_actor_id() else None,
        "ray_task_id": context.get_task_id() if in_task else None,
        "ray_task_name": context.get_task_name() if in_task else None,
    }
