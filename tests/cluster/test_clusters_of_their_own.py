"""What needs a Ray cluster that nobody else uses: one that dies, one on S3, and those of a job and a notebook."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pyarrow as pa
import pytest
import ray
from deltalake import DeltaTable
from nbclient import NotebookClient

import ringlog
from conftest import local_ray
from ringlog.actors import cluster
from ringlog.actors.household import _ShardActor
from ringlog.actors.remote import NAMESPACE, Unanswered, make_actor
from ringlog.client.ray_transport import RayTransport
from ringlog.metadata import open_store, read_pipeline
from ringlog.settings import Settings
from ringlog.storage import read_entries
from seaweed import SeaweedFS
from waiting import eventually

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]


def journals(folder: Path) -> dict[str, list[str]]:
    """The bodies in each shard actor's journals, read from its disk with pyarrow alone."""
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*.arrows"):
        actor = path.parts[-3]
        for entry in read_entries(path):
            batch = pa.ipc.open_stream(entry.payload).read_all()
            found.setdefault(actor, []).extend(batch["body"].to_pylist())
    return found


def actors() -> dict[str, Any]:
    """The actors of this Ray cluster, by name."""
    names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
    return {name: ray.get_actor(name, namespace=NAMESPACE) for name in names}


def test_shard_actors_that_outlived_the_pipeline_of_another_root_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    folders = {"journal_dir": str(tmp_path / "journals")}

    def record(root: str) -> str:
        return read_pipeline(open_store(str(tmp_path / root), {}))[0].id

    with local_ray():
        ringlog.start(str(tmp_path / "one"), **folders)
        ringlog.submit_logs([{"body": "one", "service": "s"}])
        left = actors()
        assert {"router", "housekeeper", "shard-0"} < set(left)
        ray.kill(ray.get_actor("controller", namespace=NAMESPACE), no_restart=True)
        ringlog.start(str(tmp_path / "two"), **folders)
        found = ringlog.status()["actors"].values()
        assert {actor["pipeline"] for actor in found} == {record("two")} != {record("one")}
        came = actors()
        assert not [name for name, actor in left.items() if came.get(name) == actor]
        ringlog.submit_logs([{"body": "two", "service": "s"}])
        assert ringlog.sql("SELECT body FROM logs").fetchall() == [("two",)]
        chosen = Settings(root=str(tmp_path / "two"), journal_dir=folders["journal_dir"]).public()
        make_actor(_ShardActor, "shard-7", {"memory": 1}, "shard-7", record("two"), chosen).call(
            "status", {}, timeout_s=60
        )
        ringlog.stop()
        assert actors() == {}, "also one that the controller knew nothing of"
        ringlog.start(str(tmp_path / "one"), **folders)
        assert ringlog.sql("SELECT body FROM logs").fetchall() == [("one",)]
        ringlog.stop()


def test_a_stop_that_was_broken_off_is_finished_and_what_has_no_controller_is_ended(tmp_path: Path) -> None:
    root, folders = str(tmp_path / "root"), {"journal_dir": str(tmp_path / "journals")}
    with local_ray():
        ringlog.start(root, **folders)
        ringlog.submit_logs({"body": "before"})
        before = actors()
        before["controller"].close.remote()  # all that a stop did before it was interrupted
        eventually(lambda: cluster.RemoteActor(before["controller"], "controller").call("describe")["closing"])
        with pytest.raises(ringlog.Unavailable, match="is being ended: start it again"):
            cluster.connect()
        ringlog.start(root, **folders)
        after = actors()
        assert set(after) == set(before)
        assert not [name for name, actor in before.items() if after[name] == actor]
        ringlog.submit_logs({"body": "after"})
        assert sorted(ringlog.sql("SELECT body FROM logs").fetchall()) == [("after",), ("before",)]

        ray.kill(after["router"], no_restart=True)
        ray.kill(after["housekeeper"], no_restart=True)
        eventually(lambda: actors().get("router", after["router"]) != after["router"])
        ringlog.submit_logs({"body": "with another router"})
        ray.kill(after["controller"], no_restart=True)
        eventually(lambda: "controller" not in actors())
        ringlog.start(root, **folders, linger_ms=3.0)
        assert actors()["shard-0"] != after["shard-0"], "it went by other settings than those that are told now"
        assert ringlog.status()["housekeeping_trouble"] is None
        assert len(ringlog.sql("SELECT body FROM logs").fetchall()) == 3

        ringlog.connect().close()
        ray.kill(actors()["controller"], no_restart=True)
        eventually(lambda: "controller" not in actors())
        ringlog.stop()
        assert actors() == {}
        with pytest.raises(ringlog.Unavailable, match="no pipeline runs in this Ray cluster"):
            ringlog.stop()


def test_no_call_waits_for_those_that_wait_for_the_store_and_who_cannot_begin_says_why() -> None:
    class Waits:
        """As a shard actor whose object store is away."""

        def __init__(self, setting: str) -> None:
            if setting == "wrong":
                raise ringlog.ConfigurationError("write right, not wrong")

        def flush(self, timeout_s: float) -> None:
            threading.Event().wait(timeout_s)

        def status(self) -> str:
            return "there"

    with local_ray():
        waits = make_actor(Waits, "waits", {}, "right")
        assert waits.call("status", timeout_s=60) == "there"
        for _ in range(40):
            with pytest.raises(Unanswered, match="no answer to flush"):
                waits.call("flush", 30.0, timeout_s=0.01)
        assert waits.call("status") == "there"
        with pytest.raises(Unanswered, match=r"wrong is not there to answer status: .*write right, not wrong"):
            make_actor(Waits, "wrong", {}, "wrong").call("status", timeout_s=60)


def test_who_stays_connected_finds_the_pipeline_that_is_started_again_and_no_other(tmp_path: Path) -> None:
    folders = {"journal_dir": str(tmp_path / "journals")}
    with local_ray():
        ringlog.start(str(tmp_path / "one"), **folders)
        stays = ringlog.Pipeline(RayTransport(cluster.connect()))
        stays.submit_logs({"body": "before"})
        ringlog.stop()
        ringlog.start(str(tmp_path / "one"), **folders)
        assert stays.submit_logs({"body": "after"}, timeout_s=60).records == 1
        assert sorted(stays.sql("SELECT body FROM logs").fetchall()) == [("after",), ("before",)]
        assert stays.status()["root"] == str(tmp_path / "one")
        ringlog.stop()
        ringlog.start(str(tmp_path / "two"), **folders)
        with pytest.raises(ringlog.Unavailable):
            stays.submit_logs({"body": "to another"}, timeout_s=3)
        with pytest.raises(ringlog.PipelineEnded, match=r"has ended, and one of .*two runs here now"):
            stays.sql("SELECT body FROM logs")
        assert stays.is_over, "so whoever submits next connects to the one that runs"
        stays.close()
        assert ringlog.sql("SELECT body FROM logs").fetchall() == []
        ringlog.stop()


def test_right_after_an_ack_a_sigkill_of_every_process_leaves_it_in_a_majority_of_journals(tmp_path: Path) -> None:
    root, journal_dir = tmp_path / "root", tmp_path / "journals"
    with local_ray():
        running = ringlog.start(str(root), journal_dir=str(journal_dir))
        pids = [actor["pid"] for actor in running.status()["actors"].values()]
        bodies = [f"record {number}" for number in range(20)]
        running.submit_logs([{"body": body, "service": "s"} for body in bodies])
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        running.close()
        holders = [actor for actor, found in journals(journal_dir).items() if set(bodies) <= set(found)]
        assert len(holders) >= 2
        assert not list(root.glob("logs/date=*")), "it was not in the table that they were found"
    with local_ray():
        ringlog.start(str(root), journal_dir=str(journal_dir))
        assert sorted(row for (row,) in ringlog.sql("SELECT body FROM logs").fetchall()) == sorted(bodies)
        ringlog.stop()


@pytest.mark.s3
def test_the_same_on_s3_with_no_secret_anywhere(
    tmp_path: Path, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in seaweed.environment.items():
        monkeypatch.setenv(variable, value)
    root = seaweed.root(uuid.uuid4().hex)
    with local_ray():
        ringlog.start(root, journal_dir=str(tmp_path / "journals"))
        ack = ringlog.submit_logs([{"body": str(number), "service": f"s{number % 7}"} for number in range(1000)])
        assert ringlog.sql("SELECT count(*) FROM logs").fetchall() == [(1000,)]
        ringlog.flush()
        assert ack.stored()
        assert ringlog.sql("SELECT count(*) FROM logs").fetchall() == [(1000,)]
        secret = seaweed.storage_options["AWS_SECRET_ACCESS_KEY"]
        assert secret not in json.dumps(ringlog.status())
        ringlog.stop()
    assert ringlog.table(root).arrow().num_rows == 1000
    stored = DeltaTable(f"{root}/logs", storage_options=seaweed.storage_options)
    assert pl.read_delta(f"{root}/logs", storage_options=seaweed.storage_options).height == 1000
    assert secret not in json.dumps(stored.history(), default=str)
    for path in (tmp_path / "journals").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(PROJECT / "notebooks" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "the chart"
    assert "2004" in str(outputs[-1]), "2,000 records, one from logging, three from the task"


def test_the_jobs_run_by_ray_job_submit(tmp_path: Path) -> None:
    """A Ray of `ray start`, as `ringlog up` makes one, with its dashboard, on ports of its own."""
    bin = Path(sys.executable).parent
    short = tempfile.mkdtemp(prefix="rl-")  # Ray's sockets lie below it, and their paths have a limit
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
    address = "127.0.0.1:6399"
    ports = [
        "--port=6399",
        "--dashboard-port=8299",
        "--dashboard-agent-listen-port=28399",
        "--ray-client-server-port=9399",
    ]
    start = ["start", "--head", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={short}", *ports]
    subprocess.run([bin / "ray", *start], env=environment, check=True, capture_output=True, timeout=90)

    def submit(*arguments: str) -> str:
        done = subprocess.run(
            [bin / "ray", "job", "submit", "--address=http://127.0.0.1:8299", "--", str(bin / "python"), *arguments],
            env={**environment, "RAY_ADDRESS": "http://127.0.0.1:8299"},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        jobs = PROJECT / "jobs"
        folders = ["--root", f"{tmp_path}/root", "--journal-dir", f"{tmp_path}/journals"]
        assert "ringlog is up" in submit(str(jobs / "start_pipeline.py"), *folders)
        (tmp_path / "app.log").write_text("2026-01-01 00:00:00 INFO one\nno idea\n")
        assert "2 records acknowledged" in submit(str(jobs / "ingest_files.py"), f"{tmp_path}/app.log")
        assert "trainer" in submit(str(jobs / "training_with_logs.py"))
        found = ringlog.table(f"{tmp_path}/root", "SELECT body FROM logs WHERE service = 'app' ORDER BY 1").fetchall()
        assert found == [("2026-01-01 00:00:00 INFO one",), ("no idea",)]
        steps = subprocess.run(
            [
                bin / "ringlog",
                "sql",
                "SELECT scope, count(*) n FROM logs WHERE service = 'training' GROUP BY ALL",
                "--format=json",
            ],
            env={**environment, "RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        counts = {row["scope"]: row["n"] for row in map(json.loads, steps.stdout.splitlines())}
        assert counts == {"trainer": 40, "evaluate": 1, "driver": 1}
    finally:
        # By pid, below this head's own folder: `ray stop` would end every Ray of this machine.
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if short.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                    os.kill(int(path.parent.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue  # it has ended by itself
        shutil.rmtree(short, ignore_errors=True)
