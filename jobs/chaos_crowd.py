"""The client processes of a chaos run."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

from chaos_ground import Ground


class Crowd:
    """The client processes. One that is killed is followed by another, under a name of its own.

    Where there is a network, the clients are on its nodes in turn, and the reader is on the head.
    """

    def __init__(self, ground: Ground, folder: Path, clients: int, draw: random.Random) -> None:
        self._ground = ground
        self._folder = folder
        self._draw = draw
        self._numbers = itertools.count()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._failed: list[str] = []
        self.reader = self._begin("read", "reader", 0)
        for _ in range(clients):
            self.begin()

    def begin(self) -> None:
        """One more client."""
        number = next(self._numbers)
        self._running[f"client-{number}"] = self._begin("submit", f"client-{number}", number)

    def writing(self) -> list[str]:
        """Those that have begun to submit."""
        return [name for name in self._running if (self._folder / f"{name}.jsonl").exists()]

    def kill(self, name: str) -> None:
        """SIGKILL it; another takes its place."""
        process = self._running.pop(name)
        process.kill()
        process.wait()
        self.begin()

    def replace_ended(self) -> None:
        """A client that ended by itself should not have: another takes its place, and `finish` tells of it."""
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                self._failed.append(self._told(name, process.returncode))
                del self._running[name]
                self.begin()

    def finish(self, within_s: float) -> list[str]:
        """Let all of them come to their end; what did not, or not in time."""
        running = {"reader": self.reader, **self._running}
        for process in running.values():
            if process.stdin:
                process.stdin.close()
        deadline = time.monotonic() + within_s
        for name, process in running.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                self._failed.append(self._told(name, code))
        return self._failed

    def close(self) -> None:
        """End whoever still runs."""
        for process in (self.reader, *self._running.values()):
            process.kill()
            process.wait()

    def _told(self, name: str, code: int | None) -> str:
        return f"{name} ended with {code}: {(self._folder / f'{name}.err').read_text()[-2000:]}"

    def _begin(self, role: str, name: str, number: int) -> subprocess.Popen[bytes]:
        network = self._ground.network
        if network is None:
            return self._begin_at(role, name, self._ground.head_ip)
        node = number % len(network.nodes)
        with network.inside(node):
            return self._begin_at(role, name, network.address(node))

    def _begin_at(self, role: str, name: str, ip: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("chaos_client.py")
        given = {
            "address": self._ground.address,
            "node-ip": ip,
            "table": self._ground.stores.table,
            "history": self._folder / f"{name}.jsonl",
            "name": name,
            "seed": self._draw.getrandbits(32),
        }
        options = [f"--{option}={value}" for option, value in given.items()]
        with (self._folder / f"{name}.err").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, str(script), role, *options], stdin=subprocess.PIPE, stdout=errors, stderr=errors
            )
