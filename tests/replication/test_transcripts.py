from __future__ import annotations

from pathlib import Path

import pytest

from replication.conftest import Check
from replication.scene import Scene

SCENARIOS = sorted((Path(__file__).parent / "testdata" / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, unchanged: Check) -> None:
    unchanged(path, Scene().execute)
