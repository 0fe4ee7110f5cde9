"""Another real S3 server for tests, where it is installed: Ceph's RADOS Gateway, on loopback, its objects in memory.

On Debian: ``apt-get install ceph-mon ceph-osd radosgw``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

import s3fs

from local_server import free_ports

UP_WITHIN_S = 60.0
MEMORY_BYTES = 4 * 2**30
_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")

# One monitor, one OSD, one copy of everything; no authentication between the daemons, for they are on loopback alone.
_CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms bind ipv6 = false
ms bind port min = 26800
ms bind port max = 27300
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/$name.log
crash dir = {folder}/run
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 500

[mon]
mon data = {folder}/mon
mon cluster log file = {folder}/cluster.log
mon data avail warn = 1
mon data avail crit = 1
mon initial members = a
mon memory autotune = false
paxos propose interval = 0.05
paxos min wait = 0.01

[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {memory}
osd op num shards = 4
osd op num threads per shard = 1
osd max pg log entries = 500
osd min pg log entries = 100

[client.rgw]
rgw data = {folder}/run
rgw rados pool pg num min = 1
rgw thread pool size = 32
rgw override bucket index max shards = 1
rgw dynamic resharding = false
rgw run sync thread = false
rgw enable quota threads = false
rgw enable lc threads = false
rgw lc max objs = 1
rgw gc max objs = 4
rgw gc obj min wait = 60
rgw gc processor period = 30
"""


def installed() -> bool:
    """Whether the programs are there."""
    return all(shutil.which(program) for program in _PROGRAMS)


class Rgw:
    """A Ceph of its own below ``folder``, empty; one bucket; up when the ``with`` block begins, gone when it ends."""

    bucket = "ringlog"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._conf = folder / "ceph.conf"
        self._key, self._secret = secrets.token_hex(8), secrets.token_hex(16)
        self._running: list[subprocess.Popen[bytes]] = []
        self._port, self._monitor = free_ports(2)
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Rgw:
        for name in ("mon", "osd", "run"):
            (self._folder / name).mkdir(parents=True)
        try:
            self._start()
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def storage_options(self) -> dict[str, str]:
        """How delta-rs reaches it."""
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

    def stop(self) -> None:
        """Kill all of it."""
        for process in reversed(self._running):
            process.kill()
            process.wait()
        self._running.clear()

    def _start(self) -> None:
        cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
        self._conf.write_text(_CONF.format(fsid=cluster, port=self._monitor, folder=self._folder, memory=MEMORY_BYTES))
        conf = ["-c", str(self._conf)]
        monitors = str(self._folder / "monmap")
        monitor = f"[v2:127.0.0.1:{self._monitor}/0]"
        self._run(
            ["monmaptool", "--create", "--fsid", cluster, "--enable-all-features", "--addv", "a", monitor, monitors]
        )
        self._run(["ceph-mon", "--mkfs", *conf, "-i", "a", "--monmap", monitors])
        self._keep(["ceph-mon", "-f", *conf, "-i", "a"])
        self._run(["ceph-osd", "--mkfs", *conf, "-i", "0", "--osd-uuid", osd])
        self._run(["ceph", *conf, "--connect-timeout", "30", "osd", "new", osd, "0"])
        self._keep(["ceph-osd", "-f", *conf, "-i", "0"])
        user = ["user", "create", "--uid=tests", "--display-name=tests"]
        keys = [f"--access-key={self._key}", f"--secret={self._secret}"]
        self._run(["radosgw-admin", *conf, "-n", "client.rgw", *user, *keys])  # waits until the OSD serves
        frontend = f"beast endpoint=127.0.0.1:{self._port} tcp_nodelay=1"
        self._keep(["radosgw", "-f", *conf, "-n", "client.rgw", "--rgw-frontends", frontend])

    def _run(self, command: list[str]) -> None:
        with (self._folder / "admin.out").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, env=_environment(), timeout=UP_WITHIN_S, check=True)

    def _keep(self, command: list[str]) -> None:
        with (self._folder / f"{command[0]}.out").open("ab") as log:
            self._running.append(subprocess.Popen(command, stdout=log, stderr=log, env=_environment()))

    def _wait(self) -> None:
        """Until a signed write works."""
        files = s3fs.S3FileSystem(
            key=self._key,
            secret=self._secret,
            endpoint_url=self.url,
            config_kwargs={"request_checksum_calculation": "when_required"},
            skip_instance_cache=True,
        )
        deadline = time.monotonic() + UP_WITHIN_S
        pause = threading.Event()
        while True:
            try:
                if not files.exists(self.bucket):
                    files.mkdir(self.bucket)
                files.pipe_file(f"{self.bucket}/up", b"up")
                return
            except OSError:
                if time.monotonic() > deadline or any(process.poll() is not None for process in self._running):
                    raise
            pause.wait(0.2)


def _environment() -> dict[str, str]:
    """Ceph is partly Python: that of the system, not of the tests."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "CEPH_ARGS", "CEPH_CONF", "VIRTUAL_ENV")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, "LC_ALL": "C"}
