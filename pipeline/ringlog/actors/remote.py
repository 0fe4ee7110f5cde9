"""Ray's part of every actor of a pipeline: how one is made, found, called and ended."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from ringlog.errors import RinglogError, Unavailable

NAMESPACE = "ringlog"
CALL_DEADLINE_S = 10.0
FLUSH = "flush"
"""The method that waits for the object store, in a concurrency group of its own: no other call waits for it."""
FLUSHES_MAX = 16


class Unanswered(Unavailable):
    """There is no answer to the call, which may have been carried out, or may be yet."""


class RemoteActor:
    """An actor by its handle; every call has a deadline of our own and is never repeated by Ray."""

    def __init__(self, handle: Any, name: str) -> None:
        self._handle = handle
        self._name = name

    def call(self, method: str, *arguments: Any, timeout_s: float = CALL_DEADLINE_S) -> Any:
        """The method's answer. Raises `Unanswered`, or the ringlog error that the method raised."""
        require_ray()
        bound = getattr(self._handle, method)
        if method == FLUSH:
            bound = bound.options(concurrency_group=FLUSH)
        try:
            return ray.get(bound.remote(*arguments), timeout=timeout_s)
        except RayTaskError as error:
            if isinstance(error.cause, RinglogError):
                raise error.cause from None
            raise
        except GetTimeoutError as error:
            raise Unanswered(f"{self._name} gave no answer to {method} in {timeout_s:g} s: try again") from error
        except RayActorError as error:
            raise Unanswered(f"{self._name} is not there to answer {method}: {_reason(error)}") from error
        except RayError as error:
            raise Unanswered(f"{self._name} cannot be reached: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """What Ray says, without the report of a process that it puts around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "creation task" in lines[0] else lines[0]  # there, what the constructor raised stands last


def make_actor(kind: type[Any], name: str, options: Mapping[str, Any], *arguments: Any) -> RemoteActor:
    """The actor of this name: the one that runs, or a new one that outlives whoever made it."""
    groups = {FLUSH: FLUSHES_MAX} if hasattr(kind, FLUSH) else {}
    made = ray.remote(concurrency_groups=groups)(kind).options(
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
    handle = running(name)
    if handle is None:
        raise Unavailable("no pipeline runs in this Ray cluster: start one with `ringlog up` or ringlog.start()")
    return RemoteActor(handle, name)


def running(name: str) -> Any:
    """The handle of the actor of this name, None where there is none. Raises `Unavailable` when Ray does not say."""
    require_ray()
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None
    except RayError as error:
        raise Unavailable(f"the Ray cluster does not say whether {name} runs: {_reason(error)}") from error


def require_ray() -> None:
    """Any call into a Ray that has been left would start another one, unasked."""
    if not ray.is_initialized():
        raise Unavailable("this process has left its Ray cluster: connect again with ringlog.connect()")


def log_with_times() -> None:
    """Let what this actor's process logs stand in Ray's file of it with the time, from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ringlog")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def end_process(error: BaseException) -> None:
    """A disk or an invariant has failed: answer nothing more. Ray starts the actor again, from its journals."""
    try:
        traceback.print_exception(error)
        sys.stderr.flush()
    finally:
        os._exit(1)  # also where the disk that is full has no room for the reason
