"""Ray here: its version, the cluster that would be joined, and the pipeline that runs in it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from ringlog.actors import cluster, environment, remote
from ringlog.cli.doctor.finding import Finding, listens
from ringlog.cli.status import LET_IT_READ, troubles
from ringlog.errors import RinglogError, Unavailable

_PORTS = {6379: "Ray's head", 8265: "Ray's dashboard and jobs"}
_LOOPBACK = ("127.", "localhost", "[::1]")


def version() -> Finding:
    """Ray's version against what ringlog is made for."""
    found, supported = environment.ray_version()
    (major, minor), (beyond, _) = environment.SUPPORTED
    wanted = f"Ray {major}.{minor} or newer, below {beyond}"
    if supported:
        return Finding("Ray", "ok", f"{found} ({wanted})")
    return Finding("Ray", "fail", found, f"install {wanted}: pip install 'ray[default]>={major}.{minor},<{beyond}'")


def look() -> Generator[Finding, None, cluster.Cluster | None]:
    """Ray, and the pipeline that runs in it; gives that back, where there is one that answers."""
    yield version()
    name = "Ray cluster"
    try:
        address = environment.ray_address()
    except Unavailable as error:
        yield Finding(name, "warn", str(error), "start one with `ringlog up` or `ray start --head`")
        yield free_ports()
        yield Finding("pipeline", "skip", "there is no Ray cluster")
        return None
    found = join(name, address)
    yield found
    if found.state == "fail":
        yield Finding("pipeline", "skip", "its Ray cluster is not joined")
        return None
    try:
        controller = remote.find_actor(cluster.CONTROLLER)
    except Unavailable as error:
        yield Finding("pipeline", "skip", str(error))
        return None
    try:
        running = cluster.Cluster(controller)
        yield from pipeline(running.status())
    except RinglogError as error:
        yield Finding("pipeline", "fail", str(error), "its controller restarts by itself: look again in a minute")
        return None
    return running


def join(name: str, address: str) -> Finding:
    """The Ray cluster that commands would join; this process has joined it when that is well."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    trouble = listens(host.strip("[]"), int(port)) if port.isdigit() else "that is no host:port"
    if trouble:
        return Finding(name, "fail", f"{address}: {trouble}", "start Ray there, or set or unset RAY_ADDRESS")
    try:
        return joined(name, environment.join())
    except Unavailable as error:
        return Finding(name, "fail", f"{address}: {error}", "it takes the cluster's own version of Ray, and its token")


def joined(name: str, found: environment.RayCluster) -> Finding:
    """How the cluster that was joined is, and who may reach it."""
    seen = f"{found.address}: {found.nodes} nodes" + (f", {found.gone} that are gone" if found.gone else "")
    if found.token:
        advice = "" if environment.jobs_know_the_token() else "for `ray job submit`, set RAY_AUTH_MODE=token"
        return Finding(name, "ok", f"{seen}; it asks for its token", advice)
    if found.address.startswith(_LOOPBACK):
        return Finding(name, "ok", f"{seen}; no token, on loopback")
    return Finding(
        name,
        "warn",
        f"{seen}; it asks nobody for a token",
        "whoever reaches its ports can run code there: close them to others, or start Ray with RAY_AUTH_MODE=token",
    )


def free_ports() -> Finding:
    """Where no cluster runs: the ports that one started here would take."""
    taken = [f"{port} ({what})" for port, what in _PORTS.items() if listens("127.0.0.1", port) is None]
    if not taken:
        return Finding("ports", "ok", f"{', '.join(map(str, _PORTS))} are free")
    to_do = "start Ray yourself, on other ports: `ray start --head --port=… --dashboard-port=…`"
    return Finding("ports", "warn", f"taken by somebody else: {', '.join(taken)}", to_do)


def pipeline(found: dict[str, Any]) -> Iterator[Finding]:
    """By its status: its shards, its archive, and its shard actors' ports as seen from here."""
    yield _shards(found)
    if not found["shards"]:
        for name in ("archive", "data plane"):
            yield Finding(name, "skip", "the shards are not known")
        return
    yield _archive(found)
    yield _data_plane(found)


def _shards(found: dict[str, Any]) -> Finding:
    hindered = troubles(found)
    if not found["shards"]:
        return Finding("pipeline", "fail", "; ".join(hindered), LET_IT_READ)
    by_condition: dict[str, list[str]] = {}
    for name, shard in found["shards"].items():
        by_condition.setdefault(shard["condition"], []).append(name)
    conditions = [f"{condition}: {', '.join(names)}" for condition, names in sorted(by_condition.items())]
    seen = "; ".join([*conditions, *hindered])
    if "unavailable" in by_condition:
        to_do = "`ringlog recover` says what is missing, and what it costs to go on"
        return Finding("pipeline", "fail", seen, f"see to what is said first; {to_do}" if hindered else to_do)
    if hindered:
        return Finding("pipeline", "warn", seen, "see to that: the controller then does the rest")
    if set(by_condition) == {"complete"}:
        return Finding("pipeline", "ok", seen)
    return Finding("pipeline", "warn", seen, "the controller completes it: look again, or see `ringlog recover`")


def _archive(found: dict[str, Any]) -> Finding:
    troubles = [
        f"{actor}: {one['archive_trouble']}" for actor, one in found["actors"].items() if one["archive_trouble"]
    ]
    if troubles:
        to_do = "the records wait in the journals; the table must take them before the shards' buffers are full"
        return Finding("archive", "fail", "; ".join(troubles), to_do)
    if found["housekeeping_trouble"]:
        seen = f"the table is not kept small: {found['housekeeping_trouble']}"
        return Finding("archive", "warn", seen, "it is tried again; `ringlog compact` shows what hinders it")
    lag = sum(shard["committed"] - shard["archived"] for shard in found["shards"].values() if shard["leader"])
    return Finding("archive", "ok", f"{lag} records wait for it")


def _data_plane(found: dict[str, Any]) -> Finding:
    """Records go straight to the shard actors: producers, readers and siblings must reach their ports."""
    places = {actor: one["location"].rpartition("://")[2].rpartition(":") for actor, one in found["actors"].items()}
    troubles = [
        f"{actor} at {host}:{port}: {trouble}"
        for actor, (host, _, port) in places.items()
        if (trouble := listens(host.strip("[]"), int(port)))
    ]
    if troubles:
        to_do = "let the nodes reach one another on all ports, as Ray itself needs it"
        return Finding("data plane", "fail", "; ".join(troubles), to_do)
    return Finding("data plane", "ok", f"{len(places)} shard actors can be reached from here")
