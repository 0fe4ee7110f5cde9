"""A pipeline on Ray: plain classes become detached actors here, and clients find them here."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util import get_node_ip_address

from ringlog.actors.controller import ACCEPT_LOSS_DEADLINE_S, Controller
from ringlog.actors.homes import Homes
from ringlog.actors.housekeeping import COMPACT_EVERY_S, Housekeeping
from ringlog.actors.router import Router
from ringlog.actors.secret import data_plane_token
from ringlog.actors.shard import Place, ShardHost
from ringlog.control import condition_of, shard_names
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, RinglogError, Unavailable
from ringlog.metadata import MetadataStore, open_store, read_decided
from ringlog.metadata.records import PIPELINE_KEY
from ringlog.replication import ShardState
from ringlog.settings import Settings
from ringlog.storage import Table

_logger = logging.getLogger(__name__)

NAMESPACE = "ringlog"
CONTROLLER, ROUTER, HOUSEKEEPER = "controller", "router", "housekeeper"
START_DEADLINE_S = 60.0
CALL_DEADLINE_S = 10.0
ROUTES_DEADLINE_S = 3.0
"""How long the router may be silent, beyond what it was asked to wait."""
DECIDED_DEADLINE_S = 3.0
HOUSEKEEPING_LOOK_S = 5.0
HOUSEKEEPER_DEADLINE_S = 2.0
ON_THE_HEAD = {"resources": {"node:__internal_head__": 0.001}, "scheduling_strategy": "DEFAULT"}
"""For actors that share the fate of Ray's head anyway: no other node that dies takes them with it.

Never in the placement group of whoever starts the pipeline, which has no part of the head.
"""
ROUTES_WAITING_MAX = 100_000
"""How many clients may wait for newer routes at once. They take memory, not threads."""
_POLL_S = 0.1


class RemoteActor:
    """An actor by its handle; every call has a deadline of our own and is never repeated by Ray."""

    def __init__(self, handle: Any, name: str) -> None:
        self._handle = handle
        self._name = name

    def call(self, method: str, *arguments: Any, timeout_s: float = CALL_DEADLINE_S) -> Any:
        """The method's answer. Raises `Unavailable`, or the ringlog error that the method raised."""
        _require_ray()
        try:
            return ray.get(getattr(self._handle, method).remote(*arguments), timeout=timeout_s)
        except RayTaskError as error:
            if isinstance(error.cause, RinglogError):
                raise error.cause from None
            raise
        except (GetTimeoutError, RayActorError) as error:
            raise Unavailable(f"{self._name} gave no answer to {method} in {timeout_s:g} s") from error
        except RayError as error:
            raise Unavailable(f"{self._name} cannot be reached: {error}") from error


class _ShardActor:
    """`ShardHost` as an actor. Its constructor runs again after a crash; who it is stands in its journals."""

    def __init__(self, actor: str, pipeline: str, chosen: Mapping[str, Any]) -> None:
        # Threads hand each other small pieces of work here; the default of 5 ms would be most of an acknowledgement.
        sys.setswitchinterval(0.0005)
        settings = Settings(**chosen)
        self._host = ShardHost(
            actor,
            settings,
            _journals_of(settings, pipeline) / actor,
            open_store(settings.root, settings.storage_options(), settings.metadata),
            data_plane_token(),
            get_node_ip_address(),
            _end_process,
        )

    def status(self, locations: Mapping[str, str]) -> dict[str, Any]:
        return {**self._host.status(locations), "pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}

    def replica_id(self, shard: str) -> str:
        return self._host.replica_id(shard)

    def take_over(
        self, shard: str, places: list[tuple[str, str, str]], locations: Mapping[str, str], accept_loss: bool
    ) -> int:
        return self._host.take_over(shard, [Place(*place) for place in places], locations, accept_loss)

    def flush(self, timeout_s: float) -> dict[str, int]:
        return self._host.flush(timeout_s)

    def close(self) -> None:
        self._host.close()


def _end_process(error: BaseException) -> None:
    """A disk or an invariant has failed: answer nothing more. Ray starts the actor again, from its journals."""
    try:
        traceback.print_exception(error)
        sys.stderr.flush()
    finally:
        os._exit(1)  # also where the disk that is full has no room for the reason


class _Household:
    """The shard actors of one pipeline in a Ray cluster: see `Household`."""

    def __init__(self, settings: Settings, pipeline: str, chosen: Mapping[str, Any]) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._chosen = chosen
        self._homes = Homes(_journals_of(settings, pipeline))
        self._store = open_store(settings.root, settings.storage_options(), settings.metadata)
        self._met: set[str] = set()

    def summon(self, actor: str, anywhere: bool) -> RemoteActor | None:
        try:
            running = ray.get_actor(actor, namespace=NAMESPACE)
        except ValueError:
            running = None
        if running is not None and actor not in self._met:  # it outlived an earlier controller
            self._met.add(actor)
            return RemoteActor(running, actor)
        if running is not None and self._homes.is_there(actor):
            return None
        home = self._homes.choose(actor, anywhere=anywhere or not self._had_journals(actor))
        if running is not None:
            ray.kill(running, no_restart=True)
        self._met.add(actor)
        options = {"memory": self._settings.shard_buffer_bytes_max, "scheduling_strategy": home}
        return _actor(_ShardActor, actor, options, actor, self._pipeline, self._chosen)

    def lives(self, actor: str, node: str) -> None:
        self._homes.note(actor, node)

    def leaving(self) -> Collection[str]:
        return self._homes.leaving()

    def _had_journals(self, actor: str) -> bool:
        """Whether some shard counts on a journal of ``actor``. Raises `Unavailable` when that cannot be said now."""
        shards = shard_names(self._settings.shards)
        decided, trouble = read_decided(self._store, shards, DECIDED_DEADLINE_S)
        if trouble is not None:
            raise Unavailable(trouble)
        return any(member.actor == actor for state in decided.values() for member in state.members)


def _journals_of(settings: Settings, pipeline: str) -> Path:
    """The folder of a pipeline's journals on each node; in it is one for each shard actor."""
    return Path(settings.journal_dir) / pipeline


class _HousekeeperActor:
    """`Housekeeping` in a process of its own: what it takes of memory and time, nobody else lacks."""

    def __init__(self, chosen: Mapping[str, Any]) -> None:
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
            _end_process(error)


class _ControllerActor(Controller):
    """`Controller` as an actor."""

    def __init__(self, pipeline: str, chosen: Mapping[str, Any]) -> None:
        settings = Settings(**chosen)
        self._pipeline = pipeline
        self._chosen = dict(chosen)
        names = shard_names(settings.shards)

        household = _Household(settings, pipeline, self._chosen)
        options = {**ON_THE_HEAD, "max_concurrency": ROUTES_WAITING_MAX}
        router = _actor(Router, ROUTER, options, names, settings.rebalance_interval_s)
        _actor(_HousekeeperActor, HOUSEKEEPER, {"scheduling_strategy": "SPREAD"}, self._chosen)
        super().__init__(names, settings.replicas, settings.quorum, household, router, data_plane_token())
        self.begin()

    def chosen(self) -> dict[str, Any]:
        return self._chosen


def _actor(kind: type[Any], name: str, options: Mapping[str, Any], *arguments: Any) -> RemoteActor:
    """The actor of this name: the one that runs, or a new one that outlives whoever made it."""
    made = ray.remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        **{"max_concurrency": 16, **options},
    )
    return RemoteActor(made.remote(*arguments), name)


def find_actor(name: str) -> RemoteActor:
    """The running actor of this name. Raises `Unavailable` when there is none."""
    _require_ray()
    try:
        return RemoteActor(ray.get_actor(name, namespace=NAMESPACE), name)
    except ValueError as error:
        raise Unavailable(
            "no pipeline runs in this Ray cluster: start one with `ringlog up` or ringlog.start()"
        ) from error


def _housekeeping_trouble() -> str | None:
    """Why the table is not kept small now, or None."""
    try:
        trouble: str | None = find_actor(HOUSEKEEPER).call("trouble", timeout_s=HOUSEKEEPER_DEADLINE_S)
    except Unavailable as error:
        return str(error)
    return trouble


def _require_ray() -> None:
    """Any call into a Ray that has been left would start another one, unasked."""
    if not ray.is_initialized():
        raise Unavailable("this process has left its Ray cluster: connect again with ringlog.connect()")


def join_ray(start_local: bool) -> None:
    """Be part of the Ray cluster that is there; where there is none, start one in this process if ``start_local``."""
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


def leave_ray() -> None:
    """Leave the Ray cluster; a local one that was started in this process ends."""
    ray.shutdown()


def start(settings: Settings) -> Cluster:
    """Start the pipeline in the Ray cluster of this process, or find the one that runs there already."""
    chosen = settings.public()
    try:
        cluster = connect()
    except Unavailable:
        pipeline = _pipeline_id(settings)
        _actor(_ControllerActor, CONTROLLER, ON_THE_HEAD, pipeline, chosen)
        cluster = connect()
    if cluster.settings.root != settings.root:
        raise ConfigurationError(
            f"a pipeline runs here already, with root {cluster.settings.root}: stop it with `ringlog down` first"
        )
    cluster.await_leaders(START_DEADLINE_S)
    return cluster


def connect() -> Cluster:
    """The pipeline that runs in the Ray cluster of this process. Raises `Unavailable`."""
    return Cluster(find_actor(CONTROLLER))


def _pipeline_id(settings: Settings) -> str:
    """The id of the pipeline of this root, made when the root is first used; its number of shards never changes."""
    store = open_store(settings.root, settings.storage_options(), settings.metadata)
    made = {"id": uuid.uuid4().hex, "shards": settings.shards}
    try:
        store.compare_and_set(PIPELINE_KEY, orjson.dumps(made), 0)
    except (Conflict, OutcomeUnknown):
        found = store.get(PIPELINE_KEY)
        made = orjson.loads(found.value) if found else made
    if made["shards"] != settings.shards:
        raise ConfigurationError(
            f"{settings.root} was made with shards={made['shards']}, not {settings.shards}: give that number, "
            "or another root"
        )
    return str(made["id"])


class Cluster:
    """The control plane of one running pipeline, as a client sees it."""

    def __init__(self, controller: RemoteActor) -> None:
        self._controller = controller
        self._router: RemoteActor | None = None
        chosen = controller.call("chosen", timeout_s=START_DEADLINE_S)
        self.settings = Settings(**chosen)
        self.token = data_plane_token()
        self._store: MetadataStore | None = None

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> dict[str, Any]:
        """The newest routes, as plain values: see `Router.routes`. Raises `Unavailable`."""
        if self._router is None:
            self._router = find_actor(ROUTER)
        asked = (dict(key_bytes), known, wait_s)
        plain: dict[str, Any] = self._router.call("routes", *asked, timeout_s=wait_s + ROUTES_DEADLINE_S)
        return plain

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

    def accept_loss(self, shard: str) -> int:
        """Open ``shard`` without the members that do not answer; see `Controller.accept_loss`."""
        epoch: int = self._controller.call("accept_loss", shard, timeout_s=ACCEPT_LOSS_DEADLINE_S)
        return epoch

    def _decided(self, shards: Iterable[str]) -> tuple[dict[str, ShardState], str | None]:
        settings = self.settings
        try:
            self._store = self._store or open_store(settings.root, settings.storage_options(), settings.metadata)
        except ConfigurationError as error:  # a client may do without what the actors need
            return {}, str(error)
        return read_decided(self._store, shards, DECIDED_DEADLINE_S)

    def stop(self) -> None:
        """Close the journals and end the actors. What was not archived waits in the journals for the next start."""
        names = (*shard_names(self.settings.shards), ROUTER, HOUSEKEEPER, CONTROLLER)
        self._controller.call("close", timeout_s=START_DEADLINE_S)
        for name in reversed(names):  # the controller first: it would bring the others back
            try:
                ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
            except ValueError:
                continue  # it is not there any more


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
