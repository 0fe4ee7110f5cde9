"""What `ringlog submit` and `ringlog ingest` say of every line that was not accepted."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

import ringlog
from client.test_sender import Leaderless, Mute
from ringlog.cli import app, write
from ringlog.client.sender import Part
from ringlog.client.transport import MemoryTransport, Transport
from ringlog.errors import OutcomeUnknown, Overloaded, RinglogError, Unavailable
from ringlog.settings import Settings

LINES = 1024
"""In a block of a file whose lines are those of `lines`."""

AWAY = Unavailable("shard-1 has no leader")
NOBODY_KNOWS = OutcomeUnknown("shard-0 did not say in time")


class Late(Future):
    """Settled when somebody waits for it, if not before."""

    def __init__(self, records: int, error: RinglogError | None) -> None:
        super().__init__()
        self.records, self.error = records, error

    def settle(self) -> None:
        if self.error is None:
            self.set_result(ringlog.Ack((Part("shard-0", 1, 0, self.records),), "quorum", None))  # type: ignore[arg-type]
        else:
            self.set_exception(self.error)

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self.settle()
        return super().result(timeout)


class Controlled:
    """A pipeline whose batches, counted from 1, fail as ``errors`` says; ``on_submit`` hears of each one."""

    def __init__(self, errors: dict[int, RinglogError], on_submit: Callable[[int], None] = lambda _: None) -> None:
        self.errors = errors
        self.on_submit = on_submit
        self.sent: list[Late] = []

    def submit_logs(self, batch: pa.RecordBatch, *, wait: bool) -> Late:
        self.sent.append(Late(batch.num_rows, self.errors.get(len(self.sent) + 1)))
        self.on_submit(len(self.sent))
        return self.sent[-1]


class Full(Controlled):
    """Takes one batch; for those after it there is no room."""

    def submit_logs(self, batch: pa.RecordBatch, *, wait: bool) -> Late:
        if self.sent:
            raise Overloaded("64 bytes wait")
        return super().submit_logs(batch, wait=wait)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command against a pipeline; stdin is sent two lines at a time."""
    monkeypatch.setattr(write, "_ROWS", 2)

    def run(pipeline: Any, *arguments: str, stdin: str | None = None) -> Result:
        monkeypatch.setattr(ringlog, "connect", lambda: pipeline)
        return CliRunner().invoke(app, arguments, input=stdin)

    return run


def file(path: Path, count: int) -> str:
    """``count`` lines of 1 KiB."""
    path.write_text("".join(f"{number:<1023}\n" for number in range(1, count + 1)))
    return str(path)


def numbered(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(1, count + 1))


def told(result: Result) -> dict[str, int]:
    """The JSON at the end, without the rate."""
    found: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    assert found.pop("records_per_second") >= 0
    return found


def test_where_all_is_accepted_only_that_is_said(run: Callable[..., Result], tmp_path: Path) -> None:
    paths = [file(tmp_path / "a.log", 3), file(tmp_path / "b.log", 2 * LINES), file(tmp_path / "c.log", 0)]
    result = run(Controlled({}), "ingest", *paths)
    assert result.exit_code == 0
    assert re.fullmatch(r"2051 records accepted, 0 rejected, \d+ records/s\n", result.stdout)
    result = run(Controlled({}), "submit", "--json", stdin=numbered(5))
    assert (result.exit_code, result.stderr) == (0, "")
    assert told(result) == {"accepted": 5, "rejected": 0, "not_stored": 0, "unknown": 0}


def test_a_file_of_which_batches_fail_is_told_by_lines(run: Callable[..., Result], tmp_path: Path) -> None:
    """The 2nd fails while the 5th is sent; what is on its way then is waited for, and nothing more is read."""
    a, b, c, d = (
        file(tmp_path / name, count) for name, count in [("a", 3), ("b", 5 * LINES), ("c", 1), ("d", LINES + 1)]
    )
    pipeline = Controlled({2: AWAY, 3: Unavailable("shard-2 has no leader"), 4: NOBODY_KNOWS})
    pipeline.on_submit = lambda number: pipeline.sent[1].settle() if number == 5 else None
    result = run(pipeline, "ingest", a, b, c, d)
    assert result.exit_code == 1
    assert [one.done() for one in pipeline.sent] == [True] * 5
    assert result.stderr.splitlines()[-5:] == [
        f"{b}, lines 1-2048: not stored: shard-1 has no leader",
        f"{b}, lines 2049-3072: may be stored: shard-0 did not say in time",
        f"{b}, from line 4097 on: not sent",
        f"{c}: not sent",
        f"{d}: not sent",
    ]
    assert "error" not in result.stderr
    said = "1027 records accepted, 0 rejected, 2048 not stored, 1024 unknown, "
    assert re.fullmatch(said + r"\d+ records/s\n", result.stdout)


def test_batches_that_are_no_neighbours_are_told_apart(run: Callable[..., Result], tmp_path: Path) -> None:
    """Everything is sent by the time that they fail. Where the lines of one file end is where those of the next begin."""
    a, b = file(tmp_path / "a", 3 * LINES), file(tmp_path / "b", 3 * LINES + 1)
    result = run(Controlled({1: AWAY, 3: AWAY, 7: AWAY}), "ingest", a, b, "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-3:] == [
        f"{a}, lines 1-1024: not stored: shard-1 has no leader",
        f"{a}, lines 2049-3072: not stored: shard-1 has no leader",
        f"{b}, line 3073: not stored: shard-1 has no leader",
    ]
    assert told(result) == {"accepted": 4096, "rejected": 0, "not_stored": 2049, "unknown": 0}


def test_of_many_on_their_way_the_oldest_is_waited_for_and_when_it_fails_no_more_are_sent(
    run: Callable[..., Result],
) -> None:
    pipeline = Controlled({2: NOBODY_KNOWS})
    result = run(pipeline, "submit", "--json", stdin=numbered(100))
    assert len(pipeline.sent) == 34
    assert result.stderr.splitlines() == [
        "stdin, lines 3-4: may be stored: shard-0 did not say in time",
        "stdin, from line 69 on: not sent",
    ]
    assert (result.exit_code, told(result)) == (1, {"accepted": 66, "rejected": 0, "not_stored": 0, "unknown": 2})


def test_a_batch_for_which_there_is_no_room_is_told_and_ends_it(run: Callable[..., Result]) -> None:
    result = run(Full({}), "submit", "--json", stdin="1\n2\n3\n" + '{"timestamp": "never"}\n' + "5\n")
    assert result.stderr.splitlines()[-2:] == [
        "stdin, lines 3-4: not stored: 64 bytes wait",
        "stdin, from line 5 on: not sent",
    ]
    assert result.stderr.startswith("line 4: timestamp")
    assert (result.exit_code, told(result)) == (1, {"accepted": 2, "rejected": 1, "not_stored": 1, "unknown": 0})


def test_a_record_of_several_lines_is_told_from_its_first(run: Callable[..., Result], tmp_path: Path) -> None:
    """Line 1025 belongs to 1024, which is the last of a block."""
    path = tmp_path / "x.log"
    text = Path(file(path, LINES)).read_text()
    path.write_text(text + "  more\n" + text)
    pipeline = Controlled({1: AWAY}, lambda _: pipeline.sent[0].settle())
    result = run(pipeline, "ingest", "--multiline", str(path))
    assert result.stderr.splitlines()[-2:] == [
        f"{path}, lines 1-1023: not stored: shard-1 has no leader",
        f"{path}, from line 1024 on: not sent",
    ]
    result = run(Controlled(dict.fromkeys(range(1, 10), AWAY)), "ingest", "--multiline", "--json", str(path))
    assert result.stderr.splitlines()[-1] == f"{path}, lines 1-2049: not stored: shard-1 has no leader"
    assert told(result)["not_stored"] == 2048


def test_a_file_that_cannot_be_read_ends_it_too(run: Callable[..., Result], tmp_path: Path) -> None:
    a, c = file(tmp_path / "a", 3), file(tmp_path / "c", 3)
    damaged = bytearray(gzip.compress(b"x\n" * 1000))
    damaged[10:20] = b"\xff" * 10
    (tmp_path / "b").write_bytes(damaged)
    result = run(Controlled({1: NOBODY_KNOWS}), "ingest", a, str(tmp_path / "b"), c, "--json")
    *_, error, unknown, b, last = result.stderr.splitlines()
    assert error.startswith(f"error: {tmp_path}/b cannot be read: ")
    assert unknown == f"{a}, lines 1-3: may be stored: shard-0 did not say in time"
    assert (b, last) == (f"{tmp_path}/b: not sent", f"{c}: not sent")
    assert (result.exit_code, told(result)) == (1, {"accepted": 0, "rejected": 0, "not_stored": 0, "unknown": 3})


def test_a_file_that_is_gone_when_its_turn_comes_ends_it_too(run: Callable[..., Result], tmp_path: Path) -> None:
    a, b = file(tmp_path / "a", 3), file(tmp_path / "b", 3)
    result = run(Controlled({}, lambda _: Path(b).unlink()), "ingest", a, b)
    error, last = result.stderr.splitlines()[-2:]
    assert error.startswith(f"error: {b} cannot be read: ")
    assert last == f"{b}: not sent"
    assert (result.exit_code, result.stdout.startswith("3 records accepted, 0 rejected, ")) == (1, True)


def timed(transport: MemoryTransport) -> MemoryTransport:
    transport.settings = Settings(shards=1, replicas=1, submit_timeout_s=2)
    return transport


@pytest.mark.parametrize(
    ("transport", "outcome", "says"),
    [
        (timed(Leaderless(after=1_000_000)), "not_stored", "stdin, lines 1-3: not stored: "),
        (timed(Mute()), "unknown", "stdin, lines 1-3: may be stored: shard-0 did not say in time"),
    ],
)
def test_what_the_client_says_is_what_is_told(
    run: Callable[..., Result], transport: Transport, outcome: str, says: str
) -> None:
    with ringlog.Pipeline(transport) as pipeline:
        result = run(pipeline, "submit", "--json", stdin=numbered(3))
    assert result.stderr.startswith(says)
    assert told(result) == {"accepted": 0, "rejected": 0, "not_stored": 0, "unknown": 0, outcome: 3}


def test_a_batch_that_is_stored_in_part_is_not_said_to_be_not_stored(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_ROWS", 20)
    settings = Settings(shards=1, replicas=1, submit_timeout_s=2, batch_rows_max=1, shard_buffer_bytes_max=20_000)
    with ringlog.Pipeline(MemoryTransport(settings)) as pipeline:
        result = run(pipeline, "submit", "--json", stdin=("x" * 4_000 + "\n") * 20)
        ((stored,),) = pipeline.sql("SELECT count(*) FROM logs").fetchall()
    assert 0 < stored < 20
    assert result.stderr.startswith("stdin, lines 1-20: may be stored: some of these records are stored: shard-0 [")
    assert "stored: shard-0 [0, 1), " in result.stderr
    assert told(result) == {"accepted": 0, "rejected": 0, "not_stored": 0, "unknown": 20}


def test_who_says_nothing_of_lines_gets_the_error() -> None:
    tally = write.Tally()
    tally.sent(Late(5, None))
    away = Late(1, AWAY)
    away.settle()
    with pytest.raises(Unavailable):
        tally.sent(away)
    tally.sent(Late(1, NOBODY_KNOWS))
    with pytest.raises(OutcomeUnknown):
        tally.settle()
    assert tally.accepted == 5
