"""Real log files through `ringlog ingest` and back, hot and cold. The files are those that RINGLOG_TEST_LOGS names, or made here."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable

import ringlog
from cluster.test_pipeline import command

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    given = os.environ.get("RINGLOG_TEST_LOGS")
    if given:
        return sorted(Path(given).glob("*.log"))
    folder = tmp_path_factory.mktemp("logs")
    draw = random.Random(5)
    words = ["connection", "Zeitüberschreitung", "タイムアウト", "block_-1608", "%s%n", "\x1b[31m", "a\tb", ""]
    ends = {"unix": "\n", "windows": "\r\n", "mixed": "\n"}
    for name, end in ends.items():
        lines = [
            f"2026-01-{draw.randint(1, 28):02d} 10:00:{number % 60:02d},123 {draw.choice(['INFO', 'ERROR'])} "
            + " ".join(draw.choices(words, k=5))
            for number in range(2000)
        ]
        text = end.join(lines) + (end if name == "unix" else "")
        (folder / f"{name}.log").write_bytes(text.encode())
    return sorted(folder.glob("*.log"))


def lines_of(path: Path) -> Counter[str]:
    """The file's lines: LF ends one, a CR before it goes."""
    lines = path.read_bytes().decode("utf-8", "backslashreplace").split("\n")
    return Counter(line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines))


def test_every_line_comes_back_hot_and_cold_by_every_reader(pipeline: ringlog.Pipeline, files: list[Path]) -> None:
    expected = {path.stem: lines_of(path) for path in files}
    total = sum(sum(lines.values()) for lines in expected.values())
    told = json.loads(command("ingest", *map(str, files), "--json").splitlines()[-1])
    assert (told["accepted"], told["rejected"]) == (total, 0)

    def found() -> dict[str, Counter[str]]:
        by_service: dict[str, Counter[str]] = {}
        for service, body in ringlog.sql("SELECT service, body FROM logs").fetchall():
            by_service.setdefault(service, Counter())[body] += 1
        return by_service

    assert found() == expected, "hot"
    ringlog.flush()
    assert found() == expected, "from the archive"
    url = pipeline.status()["root"] + "/logs"
    offsets: dict[str, list[int]] = {}
    delta = DeltaTable(url)
    for row in delta.to_pyarrow_table(columns=["shard", "record_offset"]).to_pylist():
        offsets.setdefault(row["shard"], []).append(row["record_offset"])
    assert all(sorted(of) == list(range(len(of))) for of in offsets.values()), "dense, nothing lost or doubled"
    cold = delta.to_pyarrow_dataset()
    by_duckdb = duckdb.sql("SELECT service, body FROM cold").fetchall()
    by_polars = pl.read_delta(url, columns=["service", "body"]).rows()
    frame: pd.DataFrame = delta.to_pandas(columns=["service", "body"])
    by_pandas = list(frame.itertuples(index=False, name=None))
    assert cold is not None
    for rows in (by_duckdb, by_polars, by_pandas):
        by_service: dict[str, Counter[str]] = {}
        for service, body in rows:
            by_service.setdefault(service, Counter())[body] += 1
        assert by_service == expected
