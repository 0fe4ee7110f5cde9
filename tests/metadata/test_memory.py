from __future__ import annotations

import pytest

from metadata.contract import MetadataContract, Open
from ringlog.metadata import MemoryStore


class TestMemoryStore(MetadataContract):
    @pytest.fixture
    def open_again(self) -> Open:
        store = MemoryStore()
        return lambda: store
