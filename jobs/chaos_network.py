"""A network of the run's own, whose links can be cut: a namespace for each node, on two switches that are joined.

Needs root and iproute2. Nothing of it can be reached from outside, nor reaches anything there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

SUBNET = "10.77.0"
_CLONE_NEWNET = 0x40000000
_SIDES = ("left", "right")


class Network:
    """``nodes`` namespaces, the first half of them on one switch and the second on the other; gone with the block."""

    def __init__(self, nodes: int) -> None:
        self.nodes = range(nodes)
        self._name = f"ringlog-{os.getpid()}"
        self._switch = f"{self._name}-switch"

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, node: int) -> str:
        """The address of a node."""
        return f"{SUBNET}.{node + 2}"

    def enter(self, node: int) -> None:
        """Let this thread, and whatever it starts from now on, be on ``node``. Raises `OSError`."""
        _enter(Path("/run/netns") / self._namespace(node))

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
        self._ip("-n", self._switch, "link", "set", link, "down")

    def mend(self, link: str) -> None:
        """Take it up again."""
        self._ip("-n", self._switch, "link", "set", link, "up")

    def link_of(self, node: int) -> str:
        """The link between a node and its switch."""
        return f"to-{node}"

    @property
    def link_between(self) -> str:
        """The link between the switches."""
        return f"from-{_SIDES[0]}"

    def _namespace(self, node: int) -> str:
        return f"{self._name}-{node}"

    def _make(self) -> None:
        switch = ("-n", self._switch)
        self._ip("netns", "add", self._switch)
        for side in _SIDES:
            self._ip(*switch, "link", "add", side, "type", "bridge")
            self._ip(*switch, "link", "set", side, "up")
        left, right = (f"from-{side}" for side in _SIDES)
        self._ip(*switch, "link", "add", left, "type", "veth", "peer", "name", right)
        for side in _SIDES:
            self._ip(*switch, "link", "set", f"from-{side}", "master", side, "up")
        for node in self.nodes:
            own = ("-n", self._namespace(node))
            self._ip("netns", "add", self._namespace(node))
            self._ip(
                *switch, "link", "add", self.link_of(node), "type", "veth", "peer", "name", "eth0", "netns", own[1]
            )
            side = _SIDES[2 * node // len(self.nodes)]
            self._ip(*switch, "link", "set", self.link_of(node), "master", side, "up")
            self._ip(*own, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            self._ip(*own, "link", "set", "eth0", "up")
            self._ip(*own, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for namespace in (self._switch, *map(self._namespace, self.nodes)):
            if (Path("/run/netns") / namespace).exists():
                self._ip("netns", "delete", namespace)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, timeout=30)


def _enter(namespace: Path) -> None:
    handle = os.open(namespace, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network {namespace}: this needs root")
    finally:
        os.close(handle)
