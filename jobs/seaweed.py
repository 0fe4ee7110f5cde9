"""A real S3 server for tests and the chaos job: SeaweedFS, from the wheel, on loopback."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import orjson
import s3fs

UP_WITHIN_S = 60.0


class SeaweedFS:
    """SeaweedFS with its data in ``folder``; one bucket; up when the ``with`` block begins, gone when it ends.

    It can be killed, and started again on the same data and ports.
    """

    bucket = "ringlog"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self._secret = secrets.token_hex(8), secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        # weed listens for gRPC at each port + 10000 by default: name them all.
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        self._ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(8), strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"

    def __enter__(self) -> SeaweedFS:
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

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead any client to this server."""
        return {**self.storage_options, "AWS_DEFAULT_REGION": "us-east-1"}

    @property
    def storage_options(self) -> dict[str, str]:
        """The same in the spelling of delta-rs."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def root(self, prefix: str) -> str:
        """A place in the bucket."""
        return f"s3://{self.bucket}/{prefix}"

    def start(self) -> None:
        """Begin to run; `wait` until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        identities = self._folder / "s3.json"
        credentials = [{"accessKey": self._key, "secretKey": self._secret}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities.write_bytes(
            orjson.dumps({"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]})
        )
        command = [
            str(Path(sys.executable).with_name("weed")),
            "-logtostderr=true",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self._folder}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=100ms",
            "-volume.max=32",
            "-filer",
            f"-filer.localSocket={self._folder}/filer.sock",
            "-s3",
            f"-s3.config={identities}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={self._folder}/s3.sock",
            *(f"-{name}={port}" for name, port in self._ports.items()),
        ]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    def wait(self) -> None:
        """Until a signed write works."""
        files = s3fs.S3FileSystem(key=self._key, secret=self._secret, endpoint_url=self.url, skip_instance_cache=True)
        deadline = time.monotonic() + UP_WITHIN_S
        pause = threading.Event()
        while True:
            try:
                if not files.exists(self.bucket):
                    files.mkdir(self.bucket)
                files.pipe_file(f"{self.bucket}/up", b"up")
                return
            except OSError:
                if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                    raise
            pause.wait(0.2)

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
