from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from metadata.contract import MetadataContract, Open

from ringlog.metadata import FileStore, open_store


class TestFileStore(MetadataContract):
    @pytest.fixture
    def open_again(self, tmp_path: Path) -> Open:
        return lambda: open_store(str(tmp_path), {})


def test_between_processes_one_wins_each_version(tmp_path: Path) -> None:
    code = f"""
from ringlog.errors import Conflict
from ringlog.metadata import FileStore
store = FileStore({str(tmp_path)!r})
won = 0
for version in range(50):
    try:
        store.compare_and_set("a", b"x", version)
        won += 1
    except Conflict:
        pass
print(won)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    won = sum(int(writer.communicate()[0]) for writer in writers)
    found = FileStore(str(tmp_path)).get("a")
    assert found is not None
    assert found.version == won, "each version was won once"


def test_old_versions_go_but_the_one_before_stays(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    for version in range(6):
        store.compare_and_set("a", b"x", version)
    assert sorted(int(path.name) for path in (tmp_path / "a").iterdir()) == [5, 6]
