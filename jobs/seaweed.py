"""A real S3 server for tests and the chaos job: SeaweedFS, from the wheel, on loopback."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path

import orjson
import s3fs

from local_server import UP_WITHIN_S, LocalServer, free_ports


class SeaweedFS(LocalServer):
    """SeaweedFS with one bucket."""

    bucket = "ringlog"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._key, self._secret = secrets.token_hex(8), secrets.token_hex(16)
        # weed listens for gRPC at each port + 10000 by default: name them all.
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        self._ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(8), strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"

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

    def _command(self) -> list[str]:
        identities = self._folder / "s3.json"
        credentials = [{"accessKey": self._key, "secretKey": self._secret}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities.write_bytes(
            orjson.dumps({"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]})
        )
        return [
            "weed",
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
                if time.monotonic() > deadline or self._ended():
                    raise
            pause.wait(0.2)
