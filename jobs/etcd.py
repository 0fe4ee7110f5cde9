"""A real etcd server for tests and the chaos job: from the wheel, on loopback."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import urllib3

from seaweed import free_ports

UP_WITHIN_S = 60.0


class Etcd:
    """One etcd member with its data in ``folder``; up when the ``with`` block begins, gone when it ends.

    It can be killed, and started again on the same data and ports. ``members`` gives each name of a cluster its port
    for the others; alone, a member is a cluster of one. Clients reach it at ``host``.
    """

    def __init__(
        self, folder: Path, name: str = "alone", members: Mapping[str, int] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._folder, self._name = folder, name
        self._members = members or {name: free_ports(1)[0]}
        self.peer_port = self._members[name]
        self.endpoint = f"{host}:{free_ports(1)[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Etcd:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def url(self, prefix: str) -> str:
        """A place in this server."""
        return f"etcd://{self.endpoint}/{prefix}"

    def start(self) -> None:
        """Begin to run; `wait` until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        peers = {name: f"http://127.0.0.1:{port}" for name, port in self._members.items()}
        command = [
            str(Path(sys.executable).with_name("etcd")),
            f"--name={self._name}",
            f"--data-dir={self._folder}/data",
            f"--listen-client-urls=http://{self.endpoint}",
            f"--advertise-client-urls=http://{self.endpoint}",
            f"--listen-peer-urls={peers[self._name]}",
            f"--initial-advertise-peer-urls={peers[self._name]}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in peers.items())}",
            "--log-level=warn",
        ]
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

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
                    if self._process is None or self._process.poll() is not None:
                        raise
                if time.monotonic() > deadline:
                    raise TimeoutError(f"etcd's {page} is not as awaited: see {self._folder}/etcd.log")
                pause.wait(0.05)

    def kill(self) -> None:
        """Kill it and wait until it is gone; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it hold its connections and answer nothing, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it stood."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
