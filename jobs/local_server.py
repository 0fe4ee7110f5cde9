"""A real server on loopback for tests and the chaos job: one process, that is killed, frozen, and begins again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TypeVar

UP_WITHIN_S = 60.0

Server = TypeVar("Server", bound="LocalServer")


class LocalServer(ABC):
    """A server from a wheel with its data in ``folder``; up when the ``with`` block begins, gone when it ends.

    It can be killed, and started again on the same data and ports.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self: Server) -> Server:
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

    def start(self) -> None:
        """Begin to run; `wait` until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        program, *arguments = self._command()
        with self.log.open("ab") as log:
            command = [str(Path(sys.executable).with_name(program)), *arguments]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    @property
    def log(self) -> Path:
        """What it says of itself."""
        return self._folder / "server.log"

    @abstractmethod
    def wait(self) -> None:
        """Until it answers."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The program, which stands beside the interpreter, and its arguments."""

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

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
