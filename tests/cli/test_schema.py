"""`ringlog schema`: on a real table, with no cluster at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cli.test_maintain import fill, run, said, table_of, today
from ringlog.errors import ConfigurationError
from ringlog.query import Cut, run_sql
from ringlog.schema import TABLE_SCHEMA
from seaweed import SeaweedFS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root in the settings whose table has six segments."""
    monkeypatch.setenv("RINGLOG_ROOT", str(tmp_path / "root"))
    fill(table_of(str(tmp_path / "root")), today(monkeypatch))
    return str(tmp_path / "root")


def columns(*arguments: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in said("schema", *arguments)["columns"]}


def test_it_shows_the_columns_and_their_types(root: str) -> None:
    found = columns()
    assert list(found) == TABLE_SCHEMA.names
    assert found["record_offset"]["type"] == "int64"
    assert {one["promoted"] for one in found.values()} == {None}
    assert said("schema")["version"] == table_of(root).snapshot().version


def test_it_promotes_and_says_since_when(root: str) -> None:
    before = table_of(root).snapshot().version
    found = columns("--promote", "http.status_code integer", "--promote", "request_id")
    assert list(found)[-2:] == ["http.status_code", "request_id"]
    assert found["http.status_code"] == {
        "name": "http.status_code",
        "type": "int64",
        "promoted": "integer",
        "since_version": before + 1,
        "segments_without": 6,
    }
    assert columns() == found
    assert columns("--promote", "request_id") == found, "again is nothing new"
    shown = run("schema").stdout
    assert re.search(rf"request_id\W+string\W+string\W+{before + 1}\W+6\b", shown)
    assert run_sql("SELECT count(request_id) FROM logs", Cut(table_of(root).snapshot(), ())).fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("service", "'service' cannot be promoted: a record has that column already. Give --promote request_id"),
        ("loss real", "loss cannot be promoted as 'real': one of string, integer, number, boolean"),
        ("a,b", "'a,b' cannot be promoted: a column's name has letters, digits"),
        ("request_id number", "request_id cannot be promoted as number: in .* it is request_id string already"),
    ],
)
def test_what_cannot_be_promoted_is_said(root: str, given: str, reason: str) -> None:
    columns("--promote", "request_id")
    result = run("schema", "--promote", given)
    assert isinstance(result.exception, ConfigurationError)
    assert re.search(reason, str(result.exception))


def test_where_there_is_no_table(tmp_path: Path) -> None:
    result = run("schema", "--root", str(tmp_path))
    assert isinstance(result.exception, ConfigurationError)
    assert "there is no table" in str(result.exception)


@pytest.mark.s3
def test_on_s3(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RINGLOG_ROOT", seaweed.root("schema"))
    fill(table_of(seaweed.root("schema"), **seaweed.storage_options), today(monkeypatch))
    assert columns("--promote", "request_id")["request_id"]["segments_without"] == 6
