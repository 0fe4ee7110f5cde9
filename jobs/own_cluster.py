"""A Ray cluster of its own on loopback, made by `ray start`, of which every process can be killed at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

BIN = Path(sys.executable).parent
HEAD_IP = "127.0.0.2"
START_DEADLINE_S = 120.0
DIES_WITHIN_S = 20.0
_POLL_S = 0.05


class OwnCluster:
    """Raylets on 127.0.0.2, .3, …; they run from `start` to `kill`, and a new cluster may follow in the same place.

    ``port`` and the two after it are the head's. ``variables`` are set in the environment of all its processes, and of
    what `run` runs.
    """

    def __init__(self, port: int, nodes: int = 1, variables: Mapping[str, str] | None = None) -> None:
        self.address = f"{HEAD_IP}:{port}"
        self._port, self._nodes = port, nodes
        self._folder = Path(tempfile.mkdtemp(prefix="rl-"))  # Ray's sockets lie below it, and their paths have a limit
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RINGLOG_"))},
            "RAY_AUTH_MODE": "disabled",
            "RAY_ADDRESS": self.address,
            "HOME": str(self._folder),
            "COLUMNS": "250",
            **(variables or {}),
        }

    def __enter__(self) -> OwnCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.kill()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """A new Ray cluster, with nothing in it."""
        ports = [
            f"--port={self._port}",
            f"--dashboard-port={self._port + 1}",
            f"--ray-client-server-port={self._port + 2}",
            f"--temp-dir={self._folder}",
        ]
        self._ray("--head", f"--node-ip-address={HEAD_IP}", *ports)
        for number in range(1, self._nodes):
            self._ray(f"--address={self.address}", f"--node-ip-address=127.0.0.{2 + number}")

    def run(
        self, *command: str | Path, timeout_s: float, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in the environment of this cluster. Raises `subprocess.TimeoutExpired`."""
        environment = {**self._environment, **(variables or {})}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)

    def ringlog(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """`ringlog …` to its end."""
        return self.run(BIN / "ringlog", *arguments, timeout_s=timeout_s)

    def begin(self, *command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Begin a command in the environment of this cluster."""
        return subprocess.Popen(command, env=self._environment, **options)

    def pids(self) -> set[int]:
        """Every process of it, dead ones that nobody has reaped left out.

        Ray's own have its folder in their command line; workers do not, but descend from one of those.
        """
        children: dict[int, list[int]] = defaultdict(list)
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                if state not in "ZX":
                    children[int(parent)].append(int(folder.name))
                    if os.fsencode(self._folder) in (folder / "cmdline").read_bytes():
                        found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended by itself
        every: set[int] = set()
        while found:
            pid = found.pop()
            if pid not in every and pid != os.getpid():
                every.add(pid)
                found.extend(children[pid])
        return every

    def kill(self, *others: subprocess.Popen[bytes]) -> int:
        """SIGKILL of every process of it, and of ``others``, at once; how many. All are gone afterwards."""
        pids = self.pids() | {process.pid for process in others if process.poll() is None}
        for pid in pids:
            _kill(pid)
        for process in others:
            process.wait()
        deadline = time.monotonic() + DIES_WITHIN_S
        while left := self.pids():  # also one that was just being started
            if time.monotonic() > deadline:
                raise TimeoutError(f"these do not die: {left}")
            for pid in left:
                _kill(pid)
            time.sleep(_POLL_S)
        return len(pids)

    def _ray(self, *arguments: str) -> None:
        command = [str(BIN / "ray"), "start", "--disable-usage-stats", "--num-cpus=1", *arguments]
        done = self.run(*command, timeout_s=START_DEADLINE_S, variables={"RAY_ADDRESS": ""})
        if done.returncode != 0:
            raise RuntimeError(f"`ray start` failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def peak_bytes(pids: Sequence[int]) -> int:
    """The most memory that one of these processes ever had resident."""
    peaks = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        peaks += [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return max(peaks)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended by itself
