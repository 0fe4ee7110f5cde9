"""Places for tables: a local folder, and a real S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from ringlog.storage import Table

Place = tuple[str, dict[str, str]]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a table may be made, and the options that reach it."""
    if request.param == "local":
        return str(tmp_path / "ring log" / "logs"), {}
    seaweed = request.getfixturevalue("seaweed")
    return f"s3://{seaweed.bucket}/{uuid.uuid4()}/logs", dict(seaweed.storage_options)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = Table(str(tmp_path / "logs"), {})
    made.open_or_create()
    return made
