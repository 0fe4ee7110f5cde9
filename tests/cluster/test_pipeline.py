"""The whole path on a real Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
import ray

import ringlog
from ringlog.actors.cluster import CONTROLLER, HOUSEKEEPER, NAMESPACE, ROUTER
from waiting import eventually

pytestmark = pytest.mark.cluster


def name() -> str:
    """A service of one test's own."""
    return f"service-{uuid.uuid4().hex[:8]}"


def count(service: str) -> int:
    return int(ringlog.sql("SELECT count(*) FROM logs WHERE service = ?", [service]).fetchall()[0][0])


def status_of_a_whole_pipeline() -> dict[str, Any]:
    """What the controller says, once it is there and has heard of every actor and leader."""
    found: dict[str, Any] = {}

    def whole() -> bool:
        found.update(ringlog.status())
        return len(found["actors"]) == 3 and all(shard["leader"] for shard in found["shards"].values())

    eventually(whole, 60)
    return found


def command(*arguments: str, stdin: str | None = None, code: int = 0) -> str:
    """Run `ringlog …` as a user does, against the cluster of this test."""
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ringlog")), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "RAY_ADDRESS": address},
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout if code == 0 else done.stderr


def test_a_record_is_visible_at_once_after_its_ack_and_after_the_archive(pipeline: ringlog.Pipeline) -> None:
    service = name()
    ack = ringlog.submit_logs([{"body": f"{number}", "service": service, "n": number} for number in range(100)])
    assert (ack.records, ack.level, len(ack.parts)) == (100, "quorum", 1)
    assert count(service) == 100
    assert not ack.stored()
    ringlog.flush()
    assert ack.stored()
    assert count(service) == 100
    rows = ringlog.sql("SELECT (attributes->>'n')::INT FROM logs WHERE service = ? ORDER BY record_offset", [service])
    assert [number for (number,) in rows.fetchall()] == list(range(100))


def test_tail_gives_what_is_committed(pipeline: ringlog.Pipeline) -> None:
    service = name()
    live = ringlog.tail(service=service)
    ringlog.submit_logs({"body": "first", "service": service})
    assert next(live)["body"].to_pylist() == ["first"]
    ringlog.submit_logs({"body": "second", "service": service})
    assert next(live)["body"].to_pylist() == ["second"]
    live.close()  # type: ignore[attr-defined]


def test_futures_settle_and_many_threads_may_submit(pipeline: ringlog.Pipeline) -> None:
    service = name()
    futures: list[Any] = []

    def submit(thread: int) -> None:
        for number in range(50):
            futures.append(ringlog.submit_logs({"body": f"{thread}/{number}", "service": service}, wait=False))

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(future.result(30).records for future in futures) == 200
    found = ringlog.sql("SELECT count(*), count(DISTINCT body) FROM logs WHERE service = ?", [service]).fetchall()
    assert found == [(200, 200)]


def test_tasks_and_actors_log_with_their_ids(pipeline: ringlog.Pipeline) -> None:
    service = name()

    @ray.remote(num_cpus=0)
    def work() -> str:
        ringlog.submit_logs({"body": "from a task", "service": service})
        return ray.get_runtime_context().get_task_id()

    @ray.remote(num_cpus=0)
    class Worker:
        def work(self) -> str:
            logger = logging.getLogger("worker")
            handler = ringlog.LogHandler(service)
            logger.addHandler(handler)
            logger.error("from an actor", extra={"part": 7})
            handler.flush()
            return ray.get_runtime_context().get_actor_id()

    task, actor = ray.get(work.remote()), ray.get(Worker.remote().work.remote())
    rows = ringlog.search(service=service).arrow().to_pylist()
    by_body = {row["body"]: row for row in rows}
    assert by_body["from a task"]["ray_task_id"] == task
    assert by_body["from an actor"]["ray_actor_id"] == actor
    assert by_body["from an actor"]["severity_number"] == 17
    assert json.loads(by_body["from an actor"]["attributes"])["part"] == 7
    assert all(row["ray_node_id"] and row["ray_job_id"] and row["pid"] and row["host"] for row in rows)


def test_a_bad_record_is_named_and_nothing_is_sent(pipeline: ringlog.Pipeline) -> None:
    service = name()
    with pytest.raises(ringlog.InvalidRecord, match="record 1: timestamp"):
        ringlog.submit_logs([{"service": service}, {"service": service, "timestamp": "yesterday"}])
    assert count(service) == 0


def test_a_forked_child_is_told_that_ray_does_not_outlive_a_fork(pipeline: ringlog.Pipeline) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ringlog.submit_logs({"body": "from a child"})
        except ringlog.Unavailable as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    service = name()
    ringlog.submit_logs({"service": service})
    assert count(service) == 1


AGAIN = """
import json, sys, time, ringlog
root, service = sys.argv[1:]
first = ringlog.start(root)
again = ringlog.start(root)
assert again is not first and first.is_over
with ringlog.connect() as closed:
    assert closed is again
ringlog.submit_logs({"service": service})  # through one that is not closed
while len(actors := ringlog.status()["actors"]) < 3:
    time.sleep(0.1)
print(json.dumps({name: one["pid"] for name, one in actors.items()}))
"""


def test_starting_twice_finds_the_one_that_runs(pipeline: ringlog.Pipeline) -> None:
    root = pipeline.status()["root"]
    with pytest.raises(ringlog.ConfigurationError, match="ringlog down"):
        ringlog.start(root + "-other")
    service = name()
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, root, service],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )
    assert done.returncode == 0, done.stderr
    pids = {name: one["pid"] for name, one in status_of_a_whole_pipeline()["actors"].items()}
    assert json.loads(done.stdout.splitlines()[-1]) == pids
    assert count(service) == 1


def test_somebody_keeps_the_table_small_in_a_process_of_its_own(pipeline: ringlog.Pipeline) -> None:
    keeper = ray.get_actor(HOUSEKEEPER, namespace=NAMESPACE)
    pid = ray.get(keeper.__ray_call__.remote(lambda _: os.getpid()), timeout=30)
    assert pid not in {os.getpid(), *(one["pid"] for one in status_of_a_whole_pipeline()["actors"].values())}
    assert ray.get(keeper.trouble.remote(), timeout=30) is None
    assert pipeline.status()["housekeeping_trouble"] is None


def test_the_command_line(pipeline: ringlog.Pipeline, tmp_path: Path) -> None:
    service = name()
    lines = [f"2026-01-02 03:04:05,{number:03d} ERROR line {number}" for number in range(500)]
    (tmp_path / f"{service}.log").write_bytes("\r\n".join(lines).encode())
    told = json.loads(command("ingest", str(tmp_path / "*.log"), "--json").splitlines()[-1])
    assert (told["accepted"], told["rejected"]) == (500, 0)
    assert told["records_per_second"] > 0
    rows = [
        json.loads(row)
        for row in command("sql", f"SELECT body FROM logs WHERE service = '{service}'", "--format", "json").splitlines()
    ]
    assert sorted(row["body"] for row in rows) == sorted(lines)
    command("submit", "--service", service, stdin='{"body": "as JSON", "n": 1}\nas text\n')
    found = command("search", "AS ", "--service", service, "--json").splitlines()
    assert sorted(json.loads(row)["body"] for row in found) == ["as JSON", "as text"]
    eventually(
        lambda: (
            [shard["leader"] for shard in json.loads(command("status", "--json"))["shards"].values()]
            == ["shard-0", "shard-1", "shard-2"]
        )
    )
    assert "one SELECT" in command("sql", "DROP VIEW logs", code=1)
    assert "names no file" in command("ingest", str(tmp_path / "none.log"), code=1)
    assert "line 2: timestamp" in command("submit", stdin='{"body": "x"}\n{"timestamp": "never"}\n', code=1)


def test_a_killed_shard_actor_loses_nothing(pipeline: ringlog.Pipeline) -> None:
    service = name()
    ack = ringlog.submit_logs([{"body": str(number), "service": service} for number in range(50)])
    status = status_of_a_whole_pipeline()
    os.kill(status["actors"][status["shards"][ack.parts[0].shard]["leader"]]["pid"], signal.SIGKILL)
    assert ringlog.submit_logs({"body": "after", "service": service}).records == 1
    assert count(service) == 51


def test_records_are_acknowledged_while_nobody_controls_and_the_next_controller_goes_on(
    pipeline: ringlog.Pipeline,
) -> None:
    service = name()
    ringlog.submit_logs({"body": "before", "service": service})
    for who in (CONTROLLER, ROUTER):
        ray.kill(ray.get_actor(who, namespace=NAMESPACE), no_restart=False)
    while_away = [ringlog.submit_logs({"body": str(number), "service": service}).parts[0] for number in range(20)]
    assert [part.epoch for part in while_away] == [while_away[0].epoch] * 20, "nobody took the shard over meanwhile"
    # A leader that dies now is noticed by the controller that Ray has started again.
    status = status_of_a_whole_pipeline()
    os.kill(status["actors"][status["shards"][while_away[0].shard]["leader"]]["pid"], signal.SIGKILL)
    after = ringlog.submit_logs({"body": "after", "service": service}).parts[0]
    assert after.epoch > while_away[0].epoch
    assert count(service) == 22
