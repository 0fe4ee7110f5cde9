"""A network of the run's own, whose links can be cut: a namespace for each node, on two switches that are joined.

Needs iproute2, and a kernel that lets this user make namespaces. Nothing of it reaches outside, or is reached from
there, and it is gone when the processes in it are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUBNET = "10.77.0"
_CLONE_NEWNET = 0x40000000
_INSIDE = "RINGLOG_CHAOS_INSIDE"
_SIDES = ("left", "right")
_SWITCH = "switch"


def be_alone() -> None:
    """Run this program anew as the root of namespaces of its own, unless it is there already."""
    if _INSIDE in os.environ:
        return
    own_run = 'mount -t tmpfs none /run && exec "$@"'  # `ip netns` keeps its names there
    command = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", own_run, "sh"]
    os.environ[_INSIDE] = "1"
    os.execvp(command[0], [*command, sys.executable, *sys.argv])


class Network:
    """``nodes`` namespaces, the first half of them on one switch and the second on the other."""

    def __init__(self, nodes: int) -> None:
        self.nodes = range(nodes)
        switch = ("-n", _SWITCH)
        _ip("netns", "add", _SWITCH)
        for side in _SIDES:
            _ip(*switch, "link", "add", side, "type", "bridge")
            _ip(*switch, "link", "set", side, "up")
        left, right = (f"from-{side}" for side in _SIDES)
        _ip(*switch, "link", "add", left, "type", "veth", "peer", "name", right)
        for side in _SIDES:
            _ip(*switch, "link", "set", f"from-{side}", "master", side, "up")
        for node in self.nodes:
            name, link, side = _namespace(node), self.link_of(node), _SIDES[2 * node // nodes]
            own = ("-n", name)
            _ip("netns", "add", name)
            _ip(*switch, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip(*switch, "link", "set", link, "master", side, "up")
            _ip(*own, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            _ip(*own, "link", "set", "eth0", "up")
            _ip(*own, "link", "set", "lo", "up")

    def address(self, node: int) -> str:
        """The address of a node."""
        return f"{SUBNET}.{node + 2}"

    def enter(self, node: int) -> None:
        """Let this thread, and whatever it starts from now on, be on ``node``. Raises `OSError`."""
        _enter(Path("/run/netns") / _namespace(node))

    @contextlib.contextmanager
    def inside(self, node: int) -> Iterator[None]:
        """On ``node`` within the block."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self.enter(node)
            try:
                yield
            finally:
                _enter(Path(f"/proc/self/fd/{before}"))
        finally:
            os.close(before)

    def cut(self, link: str) -> None:
        """Take a link down: nothing passes, and nobody is told."""
        _ip("-n", _SWITCH, "link", "set", link, "down")

    def mend(self, link: str) -> None:
        """Take it up again."""
        _ip("-n", _SWITCH, "link", "set", link, "up")

    def link_of(self, node: int) -> str:
        """The link between a node and its switch."""
        return f"to-{node}"

    @property
    def link_between(self) -> str:
        """The link between the switches."""
        return f"from-{_SIDES[0]}"


def _namespace(node: int) -> str:
    return f"node-{node}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


def _enter(namespace: Path) -> None:
    handle = os.open(namespace, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"the network {namespace} cannot be entered")
    finally:
        os.close(handle)
