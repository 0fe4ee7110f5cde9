"""What can be known of Ray here without a pipeline: for `ringlog doctor`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from ringlog.actors.cluster import cluster_address, join_ray
from ringlog.errors import Unavailable

SUPPORTED = ((2, 50), (3, 0))
"""The first version of Ray that ringlog runs on, and the first that it is not made for; as in pyproject.toml."""


@dataclass(frozen=True)
class RayCluster:
    """The cluster that this process has joined; ``token``: whether it asks everybody for its token."""

    address: str
    nodes: int
    gone: int
    token: bool


def ray_version() -> tuple[str, bool]:
    """The version of Ray that is installed here, and whether ringlog supports it.

    >>> ray_version()[1]
    True
    """
    major, minor = (int(part) for part in ray.__version__.split(".")[:2])
    return ray.__version__, SUPPORTED[0] <= (major, minor) < SUPPORTED[1]


def ray_address() -> str:
    """Where this process would join. Raises `Unavailable` where there is no Ray cluster."""
    address = cluster_address()
    if address is None:
        raise Unavailable("no Ray cluster was found, and RAY_ADDRESS names none")
    return address


def join() -> RayCluster:
    """Join the cluster that is there. Raises `Unavailable`, whatever Ray's own error was."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    try:
        join_ray(start_local=False)
        alive = [node["Alive"] for node in ray.nodes()]
        address = ray.get_runtime_context().gcs_address
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise Unavailable(f"it cannot be joined: {error}") from error
    return RayCluster(address, alive.count(True), alive.count(False), is_token_auth_enabled())


def jobs_know_the_token() -> bool:
    """Whether `ray job submit` of this environment would send the cluster's token."""
    return os.environ.get("RAY_AUTH_MODE") == "token"
