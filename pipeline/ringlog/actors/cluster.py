"""A pipeline on Ray: plain classes become detached actors here, and clients find them here."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from ringlog.actors import gcs
from ringlog.actors.controller import ACCEPT_LOSS_DEADLINE_S, Controller
from ringlog.actors.household import (
    DECIDED_DEADLINE_S,
    HOUSEKEEPER,
    ON_THE_HEAD,
    ROUTER,
    Household,
    read_plan,
)
from ringlog.actors.remote import (
    CALL_DEADLINE_S,
    NAMESPACE,
    RemoteActor,
    Unanswered,
    end_process,
    find_actor,
    log_with_times,
    make_actor,
    require_ray,
    running,
)
from ringlog.control import condition_of
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, PipelineEnded, Unavailable
from ringlog.metadata import MetadataStore, open_store, read_decided
from ringlog.metadata.records import PIPELINE_KEY, PipelineRecord, pipeline_from_bytes, pipeline_to_bytes
from ringlog.replication import ShardState
from ringlog.settings import Settings

_logger = logging.getLogger(__name__)

CONTROLLER = "controller"
START_DEADLINE_S = 60.0
END_DEADLINE_S = 15.0
"""How long the names of actors that were ended may stay: Ray ends a process that hangs after five seconds."""
ROUTES_DEADLINE_S = 3.0
"""How long the router may be silent, beyond what it was asked to wait."""
LISTENS_DEADLINE_S = 3.0
CHANGE_DEADLINE_S = 60.0
"""How long a decision may take: the metadata store may be slow, and nobody should be left without an answer."""
HOUSEKEEPER_DEADLINE_S = 2.0
_POLL_S = 0.1


class _ControllerActor(Controller):
    """`Controller` as an actor."""

    def __init__(self, pipeline: str, chosen: Mapping[str, Any]) -> None:
        log_with_times()
        self._pipeline = pipeline
        self._chosen = dict(chosen)
        try:
            settings = Settings(**chosen)
            owner = _owner(pipeline, chosen)
            if gcs.owner() != owner:
                _end_actors(but=CONTROLLER)  # they would answer under the names of this one's actors
                gcs.own(owner)
            household = Household(settings, pipeline, self._chosen)
            super().__init__(settings.replicas, settings.quorum, household, gcs.data_plane_token(pipeline))
        except ValueError:
            raise  # a setting is wrong
        except Exception as error:  # noqa: BLE001  (whatever Ray raises: it passes)
            end_process(error)  # Ray starts again whoever ends, but not whom an exception kept from beginning
        self.begin()

    def describe(self) -> dict[str, Any]:
        """The pipeline's id and its settings, and whether it is being ended."""
        chosen = {**self._chosen, "shards": self.shards_wanted() or self._chosen["shards"]}
        return {"pipeline": self._pipeline, "settings": chosen, "closing": self.is_closed}


def _owner(pipeline: str, chosen: Mapping[str, Any]) -> str:
    """Whose the actors are: of a pipeline that was started with these settings. How many shards it has may change."""
    settings = json.dumps({**chosen, "shards": None}, sort_keys=True).encode()
    return f"{pipeline} {hashlib.blake2b(settings, digest_size=16).hexdigest()}"


def _actors() -> dict[str, Any]:
    """The handles of the actors of pipelines in this Ray cluster, by name. Raises `Unavailable`."""
    require_ray()
    try:
        named = ray.util.list_named_actors(all_namespaces=True)
    except RayError as error:
        raise Unavailable(f"the Ray cluster does not say which actors run: {error}") from error
    handles = {one["name"]: running(one["name"]) for one in named if one["namespace"] == NAMESPACE}
    return {name: handle for name, handle in handles.items() if handle is not None}


def _end_actors(controller: Any = None, but: str = "") -> bool:
    """End the actors of pipelines in this Ray cluster, and wait until their names are free; whether there were any.

    Where another controller than ``controller``, or the one that is found first, has begun by then, all stays that is
    left. Raises `Unavailable`, naming what does not end.
    """
    deadline = time.monotonic() + END_DEADLINE_S
    pause = threading.Event()
    any_found = False
    while found := {name: handle for name, handle in _actors().items() if name != but}:
        controller = controller or found.get(CONTROLLER)
        if found.get(CONTROLLER) not in (None, controller):
            break
        if time.monotonic() > deadline:
            raise Unavailable(f"these actors do not end: {', '.join(sorted(found))}. Try again")
        any_found = True
        for name in sorted(found, key=lambda name: name != CONTROLLER):  # it would bring the others back
            ray.kill(found[name], no_restart=True)
        pause.wait(_POLL_S)
    return any_found


def _housekeeping_trouble() -> str | None:
    """Why the table is not kept small now, or None."""
    handle = running(HOUSEKEEPER)
    if handle is None:
        return "the housekeeper is not there now: the controller brings it back"
    try:
        trouble: str | None = RemoteActor(handle, HOUSEKEEPER).call("trouble", timeout_s=HOUSEKEEPER_DEADLINE_S)
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
    address = cluster_address()
    if address is not None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise Unavailable(
                f"the Ray cluster at {address} does not answer: see whether it runs; `ray stop` ends what is left of it"
            ) from error
    elif start_local:
        ray.init(address="local", log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    else:
        raise Unavailable(
            "no Ray cluster was found: start one with `ringlog up` or `ray start --head`, or set RAY_ADDRESS"
        )


def cluster_address() -> str | None:
    """The address of the Ray cluster that this process would join; None where RAY_ADDRESS names none, and none is here.

    Ray remembers the cluster that was started last also where that was killed: nobody listens at its address then.
    """
    from ray._private.services import get_ray_address_from_environment

    try:
        address = str(get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return None
    return address if os.environ.get("RAY_ADDRESS") or _listens(address) else None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return True  # it is Ray's to say what is wrong with it
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENS_DEADLINE_S).close()
    except OSError:
        return False
    return True


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
    """Start the pipeline in the Ray cluster of this process, or find the one that runs there already.

    Where one is being ended there, or was not ended quite, it is ended first.
    """
    cluster = _found_or_begun(settings)
    if cluster.settings.root != settings.root:
        raise ConfigurationError(
            f"a pipeline runs here already, with root {cluster.settings.root}: stop it with `ringlog down` first"
        )
    _require_shards(settings, cluster.settings.shards)
    cluster.await_leaders(START_DEADLINE_S)
    return cluster


def _found_or_begun(settings: Settings) -> Cluster:
    deadline = time.monotonic() + START_DEADLINE_S
    pause = threading.Event()
    while True:
        handle = running(CONTROLLER)
        controller = _begin(settings) if handle is None else RemoteActor(handle, CONTROLLER)
        try:
            return Cluster(controller, max(1.0, deadline - time.monotonic()))
        except _Closing:
            _end_actors(handle)
        except Unanswered as error:
            if running(CONTROLLER) is None:
                raise
            if time.monotonic() >= deadline:
                raise Unavailable(f"{error}. `ringlog down` ends it, which loses nothing: then start again") from error
            pause.wait(_POLL_S)


def _begin(settings: Settings) -> RemoteActor:
    record = _record(settings)
    _require_shards(settings, record.shards)
    if settings.replicas > record.shards:
        raise ConfigurationError(
            f"{settings.root} has shards={record.shards}, and replicas={settings.replicas} needs as many: give "
            f"replicas={record.shards} or fewer"
        )
    chosen = {**settings.public(), "shards": record.shards}
    return make_actor(_ControllerActor, CONTROLLER, ON_THE_HEAD, record.id, chosen)


def connect() -> Cluster:
    """The pipeline that runs in the Ray cluster of this process. Raises `Unavailable`."""
    return Cluster(find_actor(CONTROLLER))


def end() -> bool:
    """End whatever is left of a pipeline in this Ray cluster, whose controller does not answer; whether there was any.

    What was not archived waits in the journals. Raises `Unavailable`.
    """
    return _end_actors()


def _record(settings: Settings) -> PipelineRecord:
    """The record of the pipeline of this root, made when the root is first used. Raises `Unavailable`."""
    store = open_store(settings.root, settings.storage_options(), settings.metadata)
    made = PipelineRecord.new(settings.shards)
    try:
        store.compare_and_set(PIPELINE_KEY, pipeline_to_bytes(made), 0)
    except (Conflict, OutcomeUnknown) as error:
        found = store.get(PIPELINE_KEY)
        if found is None:  # the journals would be those of an id that nobody has
            raise Unavailable(f"{settings.root} cannot be begun now: {error}. Try again") from error
        return pipeline_from_bytes(found.value)
    return made


def _require_shards(settings: Settings, shards: int) -> None:
    """Whoever names a number of shards, anywhere, must mean the one that there is: to change it moves data."""
    if "shards" in settings.model_fields_set and settings.shards != shards:
        raise ConfigurationError(
            f"{settings.root} has shards={shards}, not {settings.shards}: leave the setting out, or change the number "
            f"of the pipeline that runs with `ringlog shards {settings.shards}`"
        )


class _Closing(Unavailable):
    """The pipeline is being ended, or was not ended quite."""


class Cluster:
    """The control plane of one running pipeline, as a client sees it."""

    def __init__(self, controller: RemoteActor, timeout_s: float = START_DEADLINE_S) -> None:
        self._controller = controller
        self._router: RemoteActor | None = None
        found = controller.call("describe", timeout_s=timeout_s)
        if found["closing"]:
            raise _Closing("the pipeline here is being ended: start it again with `ringlog up` or ringlog.start()")
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
            self._router = None
            raise
        self._router = router
        return plain

    def _find_router(self) -> RemoteActor:
        """The router of this pipeline, also after that was ended and started again.

        Raises `PipelineEnded` where another runs in its place, and `Unavailable`.
        """
        controller = find_actor(CONTROLLER)
        found = controller.call("describe", timeout_s=ROUTES_DEADLINE_S)
        if found["pipeline"] != self._pipeline:
            raise PipelineEnded(
                f"the pipeline of {self.settings.root} has ended, and one of {found['settings']['root']} runs here "
                "now: close this one, and call ringlog.connect() again"
            )
        self._controller = controller
        handle = running(ROUTER)
        if handle is None:
            raise Unavailable("the router is not there now: the controller brings it back, try again")
        return RemoteActor(handle, ROUTER)

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
                raise Unavailable(f"{', '.join(sorted(missing))} not led after {timeout_s:g} s: {self._why_not_led()}")
            pause.wait(_POLL_S)

    def _why_not_led(self) -> str:
        found: dict[str, Any] = self._controller.call("status")
        if found["plan_trouble"]:
            return f"which shards there should be cannot be read: {found['plan_trouble']}"
        reasons = [*found["away"].values(), *(shard["trouble"] for shard in found["shards"].values())]
        return "; ".join(reason for reason in reasons if reason) or "their takeovers are under way"

    def flush(self, timeout_s: float) -> None:
        """Archive what is committed. Raises `Unavailable`."""
        self._controller.call("flush", timeout_s, timeout_s=timeout_s + CALL_DEADLINE_S)

    def status(self) -> dict[str, Any]:
        """Every shard and shard actor, and what the metadata store says of the shards."""
        settings = self.settings
        found: dict[str, Any] = self._controller.call("status")
        decided, trouble = self._decided(found["shards"])
        for shard, one in found["shards"].items():
            wished = settings.replicas - len(one["crowded"])
            one.update(condition_of(shard, found["actors"], decided.get(shard), wished))
        return {
            "root": settings.root,
            "journal_dir": settings.journal_dir,
            "metadata_trouble": trouble,
            "housekeeping_trouble": _housekeeping_trouble(),
            **found,
        }

    def change_shards(self, shards: int) -> None:
        """Have so many shards from now on; see `Controller.change_shards`."""
        try:
            self._controller.call("change_shards", shards, timeout_s=CHANGE_DEADLINE_S)
        except Unanswered as error:
            raise OutcomeUnknown(f"it may be decided all the same: look with `ringlog shards`. {error}") from error

    def accept_loss(self, shard: str) -> int:
        """Open ``shard`` without the members that do not answer; see `Controller.accept_loss`."""
        try:
            epoch: int = self._controller.call("accept_loss", shard, timeout_s=ACCEPT_LOSS_DEADLINE_S)
        except Unanswered as error:
            raise OutcomeUnknown(f"{shard} may open all the same: look with `ringlog recover`. {error}") from error
        return epoch

    def shards(self) -> tuple[str, ...]:
        """The shards that are not retired, as the metadata store has it. Raises `Unavailable`."""
        settings = self.settings
        try:
            self._store = self._store or open_store(settings.root, settings.storage_options(), settings.metadata)
        except ConfigurationError as error:  # a client may do without what the actors need
            raise Unavailable(f"which shards there are cannot be read here: {error}") from error
        return read_plan(self._store, self._pipeline, None).led

    def _decided(self, shards: Iterable[str]) -> tuple[dict[str, ShardState], str | None]:
        settings = self.settings
        try:
            self._store = self._store or open_store(settings.root, settings.storage_options(), settings.metadata)
        except ConfigurationError as error:  # a client may do without what the actors need
            return {}, str(error)
        return read_decided(self._store, shards, DECIDED_DEADLINE_S)

    def stop(self) -> None:
        """Close the journals and end the actors. What was not archived waits in the journals for the next start.

        Raises `PipelineEnded` where another pipeline runs in its place, and `Unavailable`.
        """
        controller = running(CONTROLLER)
        if not (gcs.owner() or "").startswith(self._pipeline):
            raise PipelineEnded(f"the pipeline of {self.settings.root} has ended already, and another runs here now")
        try:
            if controller is not None:
                RemoteActor(controller, CONTROLLER).call("close", timeout_s=START_DEADLINE_S)
        except Unanswered as error:
            _logger.warning("the journals were not closed in time, and are safe all the same: %s", error)
        finally:
            _end_actors(controller)


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
