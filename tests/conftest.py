"""What tests share: one S3 server, one Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seaweed import SeaweedFS


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server, shared by the whole run."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server
