"""A real etcd server for tests and the chaos job: from the wheel, on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import urllib3

from local_server import UP_WITHIN_S, LocalServer, free_ports


class Etcd(LocalServer):
    """One etcd member.

    ``members`` gives each name of a cluster its port for the others; alone, a member is a cluster of one. Clients reach
    it at ``host``.
    """

    def __init__(
        self, folder: Path, name: str = "alone", members: Mapping[str, int] | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(folder)
        self._name = name
        self._members = members or {name: free_ports(1)[0]}
        self.peer_port = self._members[name]
        self.endpoint = f"{host}:{free_ports(1)[0]}"

    def url(self, prefix: str) -> str:
        """A place in this server."""
        return f"etcd://{self.endpoint}/{prefix}"

    def _command(self) -> list[str]:
        peers = {name: f"http://127.0.0.1:{port}" for name, port in self._members.items()}
        return [
            "etcd",
            f"--name={self._name}",
            f"--data-dir={self._folder}/data",
            f"--listen-client-urls=http://{self.endpoint}",
            f"--advertise-client-urls=http://{self.endpoint}",
            f"--listen-peer-urls={peers[self._name]}",
            f"--initial-advertise-peer-urls={peers[self._name]}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in peers.items())}",
            "--log-level=warn",
        ]

    def wait(self) -> None:
        """Until it knows a leader and answers reads."""
        self._await("health", lambda status, _: status == 200)

    def await_metric(self, name: str, value: int) -> None:
        """Until it reports this value of one of its metrics."""
        line = f"{name} {value}".encode()
        self._await("metrics", lambda _, page: line in page.splitlines())

    def _await(self, page: str, holds: Callable[[int, bytes], bool]) -> None:
        deadline = time.monotonic() + UP_WITHIN_S
        pause = threading.Event()
        with urllib3.PoolManager(retries=False, timeout=UP_WITHIN_S) as client:
            while True:
                try:
                    found = client.request("GET", f"http://{self.endpoint}/{page}")
                    if holds(found.status, found.data):
                        return
                except urllib3.exceptions.HTTPError:
                    if self._ended():
                        raise
                if time.monotonic() > deadline:
                    raise TimeoutError(f"etcd's {page} is not as awaited: see {self.log}")
                pause.wait(0.05)
