"""What `ringlog doctor` finds where all is well, and where something was broken on purpose."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from cli.test_status import FORBIDDEN, LOST, SHOWN_FORBIDDEN, WAITS, shard
from cli.test_status import found as status
from etcd import Etcd
from local_server import free_ports
from ringlog.actors import environment
from ringlog.cli import app, doctor
from ringlog.cli.doctor import Finding, disk, ray, stores
from ringlog.errors import Conflict, Unavailable
from ringlog.metadata import FileStore
from ringlog.settings import Settings
from ringlog.storage import Journal
from seaweed import SeaweedFS
from storage.test_journal import killed, opened, written

IN_MEMORY = Path("/dev/shm")


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(**{"root": str(folder / "root"), "journal_dir": str(folder / "journals"), **changes})


def found(chosen: Settings) -> dict[str, Finding]:
    """What is found without Ray, by name."""
    return {finding.name: finding for finding in doctor.look(chosen)}


def states(chosen: Settings) -> dict[str, str]:
    return {name: finding.state for name, finding in found(chosen).items()}


WELL = {
    "root": "ok",
    "table": "ok",
    "metadata store": "ok",
    "clock": "skip",
    "journal folder": "ok",
    "journal room": "ok",
    "journals": "ok",
}


def broken(chosen: Settings) -> dict[str, str]:
    """What is not as `WELL` says. How fast this machine's disk is, nobody knows."""
    return {
        name: state for name, state in states(chosen).items() if state != WELL.get(name) and name != "journal speed"
    }


def test_all_is_well_and_nothing_is_left_behind(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "not yet made")
    assert broken(chosen) == {}
    assert list(tmp_path.iterdir()) == []
    Path(chosen.root).mkdir(parents=True)
    Path(chosen.journal_dir).mkdir()
    assert broken(chosen) == {}
    assert list(Path(chosen.root).iterdir()) == []
    assert list(Path(chosen.journal_dir).iterdir()) == []


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("not a folder")
    assert broken(settings(tmp_path)) == {"root": "fail", "table": "skip", "metadata store": "skip"}
    (tmp_path / "below").write_text("")
    assert broken(settings(tmp_path, root=str(tmp_path / "below" / "root")))["root"] == "fail"
    assert (tmp_path / "root").read_text() == "not a folder"


def test_a_root_that_is_read_only(tmp_path: Path) -> None:
    looked = found(settings(tmp_path, root="/proc/ringlog"))  # where not even root may write
    assert looked["root"].state == "fail"
    assert "/proc/ringlog" in looked["root"].seen
    assert looked["root"].to_do


def test_a_root_that_takes_a_second_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an object store that does not know If-None-Match."""
    monkeypatch.setattr("ringlog.storage.objects._Folder.create", lambda self, path, data: self.write(path, data))
    looked = found(settings(tmp_path))["root"]
    assert (looked.state, "was not refused" in looked.seen) == ("fail", True)


def test_a_metadata_store_that_lets_two_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FileStore.compare_and_set

    def lenient(self: FileStore, key: str, value: bytes, expected: int) -> object:
        try:
            return real(self, key, value, expected)
        except Conflict:
            return None

    monkeypatch.setattr(FileStore, "compare_and_set", lenient)
    looked = found(settings(tmp_path))["metadata store"]
    assert (looked.state, "from an old version was taken" in looked.seen) == ("fail", True)


def test_journals_in_memory(tmp_path: Path) -> None:
    folder = IN_MEMORY / tmp_path.name
    looked = found(settings(tmp_path, journal_dir=str(folder)))["journal folder"]
    assert looked == Finding(
        "journal folder",
        "fail",
        f"{folder} is tmpfs: memory, gone with a restart of the machine",
        "give a journal_dir on a local disk: an ack is an fsync on it",
    )
    assert not folder.exists()


def test_a_journal_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "journals").write_text("")
    assert broken(settings(tmp_path)) == {"journal folder": "fail"}
    assert broken(settings(tmp_path, journal_dir="/proc/ringlog")) == {"journal folder": "fail"}


def test_too_little_room(tmp_path: Path) -> None:
    looked = found(settings(tmp_path, shard_buffer_bytes_max=2**60))["journal room"]
    assert (looked.state, "MiB free" in looked.seen) == ("warn", True)


def test_a_slow_disk() -> None:
    assert disk.speed([1.0] * 50).state == "ok"
    slow = disk.speed([1.0] * 40 + [25.0] * 10)
    assert (slow.state, slow.seen) == ("warn", "fdatasync of 4 KiB: p50 1.00 ms, p99 25.00 ms")


def test_journals_are_read_while_somebody_holds_them(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    folder = tmp_path / "journals" / "pipeline" / "shard-1"
    written(folder / "shard-0", 3)
    held: Journal = opened(folder / "shard-0")
    looked = found(chosen)["journals"]
    assert looked == Finding("journals", "ok", f"1 in {tmp_path}/journals read back, 30 records")
    held.close()


def test_a_corrupted_journal(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    folder = tmp_path / "journals" / "pipeline" / "shard-1" / "shard-0"
    written(folder, 3)
    (path,) = folder.glob("*.arrows")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    looked = found(chosen)["journals"]
    assert (looked.state, str(path) in looked.seen) == ("fail", True)
    assert "sets this journal aside" in looked.to_do
    assert path.read_bytes() == data
    killed(opened(folder))
    looked = found(chosen)["journals"]
    assert (looked.state, "set aside: " in looked.seen, str(folder / "lost-") in looked.seen) == ("warn", True, True)


@pytest.mark.s3
def test_s3(tmp_path: Path, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in seaweed.environment.items():
        monkeypatch.setenv(variable, value)
    chosen = settings(tmp_path, root=seaweed.root("doctor"))
    assert broken(chosen) == {"clock": "ok"}
    assert stores.Objects(chosen.root, chosen.storage_options()).list() == []
    secret = seaweed.environment["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    looked = found(chosen)
    assert looked["root"].state == "fail"
    assert "Check the credentials" in looked["root"].seen
    assert (looked["metadata store"].state, looked["clock"].state) == ("skip", "ok")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    nowhere = found(settings(tmp_path, root="s3://no-such-bucket/logs"))["root"]
    assert (nowhere.state, "Create the bucket" in nowhere.seen) == ("fail", True)


@pytest.mark.etcd
def test_etcd(tmp_path: Path, etcd: Etcd) -> None:
    chosen = settings(tmp_path, metadata=etcd.url("doctored"))
    assert broken(chosen) == {}
    assert broken(chosen) == {}, "also with what the first one left"
    away = settings(tmp_path, metadata=f"etcd://127.0.0.1:{free_ports(1)[0]}/doctored")
    looked = found(away)["metadata store"]
    assert (looked.state, "etcd does not answer" in looked.seen) == ("fail", True)
    assert "no shard can get a leader" in looked.to_do
    assert broken(away) == {"metadata store": "fail"}, "the rest is as it was"


@pytest.fixture
def clock() -> Iterator[Any]:
    """An object store that answers nothing but its own time: ``clock.offset_s`` from here."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(403)
            if server.offset_s is not None:
                self.send_header("Date", formatdate(time.time() + server.offset_s, usegmt=True))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the test's terminal."""

    server: Any = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    server.offset_s = 0.0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_clocks_that_differ(tmp_path: Path, clock: Any) -> None:
    url = f"http://127.0.0.1:{clock.server_port}"
    chosen = settings(tmp_path, root="s3://bucket/logs", s3_endpoint_url=url)
    for offset_s, state in [(0.0, "ok"), (30.0, "warn"), (-30.0, "warn"), (2000.0, "fail"), (None, "skip")]:
        clock.offset_s = offset_s
        assert stores.clock(chosen).state == state, offset_s
    closed = settings(tmp_path, root="s3://bucket/logs", s3_endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert stores.clock(closed).state == "skip"


def test_the_supported_versions_of_ray_are_those_that_are_installed() -> None:
    least, beyond = environment.SUPPORTED
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"ray[default]>={least[0]}.{least[1]},<{beyond[0]}"' in project


def test_a_version_of_ray_that_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray.version().state == "ok"
    monkeypatch.setattr(environment.ray, "__version__", "3.1.0")
    assert ray.version().state == "fail"


def test_a_ray_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    assert ray.join("Ray cluster", address).state == "fail"
    assert ray.join("Ray cluster", "somewhere").seen == "somewhere: that is no host:port"

    def none() -> str:
        raise Unavailable("no Ray cluster was found")

    monkeypatch.setattr(environment, "ray_address", none)
    looked = {finding.name: finding.state for finding in ray.look()}
    assert looked.pop("ports") in ("ok", "warn")
    assert looked == {"Ray": "ok", "Ray cluster": "warn", "pipeline": "skip"}


def test_a_ray_without_a_token_is_fine_on_loopback_alone() -> None:
    def joined(address: str, token: bool) -> Finding:
        return ray.joined("Ray cluster", environment.RayCluster(address, 1, 0, token))

    assert joined("127.0.0.1:6379", token=False).state == "ok"
    assert joined("10.1.2.3:6379", token=True).state == "ok"
    assert joined("10.1.2.3:6379", token=False).state == "warn"


def test_a_pipeline_in_trouble() -> None:
    def looked(
        condition: str, trouble: str | None = None, port: int = 1, housekeeping: str | None = None
    ) -> dict[str, str]:
        shard = {"condition": condition, "leader": "shard-0", "committed": 9, "archived": 4}
        actor = {"archive_trouble": trouble, "location": f"grpc://127.0.0.1:{port}"}
        status = {
            "shards": {"shard-0": shard},
            "actors": {"shard-0": actor},
            "housekeeping_trouble": housekeeping,
            "plan_trouble": None,
            "away": {},
        }
        return {finding.name: finding.state for finding in ray.pipeline(status)}

    assert looked("complete") == {"pipeline": "ok", "archive": "ok", "data plane": "fail"}
    assert looked("incomplete")["pipeline"] == "warn"
    assert looked("unavailable")["pipeline"] == "fail"
    assert looked("complete", trouble="the bucket is away")["archive"] == "fail"
    assert looked("complete", housekeeping="a segment does not read back")["archive"] == "warn"


def test_what_keeps_the_controller_from_its_part_is_found() -> None:
    def looked(**known: Any) -> Finding:
        return next(ray.pipeline(status(**known)))

    assert looked(shard_0=shard()).state == "ok"
    away = looked(shard_0=shard(), plan_trouble="no answer", away={"shard-1": WAITS})
    assert away == Finding(
        "pipeline",
        "warn",
        f"complete: shard-0; whether there should be other shards by now is not known: no answer; {WAITS}",
        "see to that: the controller then does the rest",
    )
    lost = looked(shard_0=LOST, away={"shard-1": WAITS})
    assert (lost.state, lost.seen) == ("fail", f"unavailable: shard-0; {WAITS}")
    assert lost.to_do.startswith("see to what is said first; `ringlog recover` says what is missing")


def test_shards_that_are_not_known_are_not_well() -> None:
    unknown, *others = ray.pipeline(status(plan_trouble=FORBIDDEN))
    assert (unknown.state, unknown.seen) == ("fail", f"which shards there should be is not known: {SHOWN_FORBIDDEN}")
    assert "the store answers" in unknown.to_do
    assert [(one.name, one.state) for one in others] == [("archive", "skip"), ("data plane", "skip")]


def test_the_command_fails_when_a_check_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ray() -> Iterator[Finding]:
        yield Finding("Ray", "ok", "as it should be")

    monkeypatch.setattr(ray, "look", no_ray)
    monkeypatch.setenv("RINGLOG_JOURNAL_DIR", str(tmp_path / "journals"))
    well = CliRunner().invoke(app, ["doctor", "--root", str(tmp_path / "root"), "--json"])
    told = orjson.loads(well.stdout)
    assert (well.exit_code, told["ok"]) == (0, True)
    assert {"name": "Ray", "state": "ok", "seen": "as it should be", "to_do": ""} in told["findings"]
    (tmp_path / "root").write_text("")
    for arguments in (["--json"], []):
        done = CliRunner().invoke(app, ["doctor", "--root", str(tmp_path / "root"), *arguments])
        assert done.exit_code == 1
    assert "fail" in done.stdout
