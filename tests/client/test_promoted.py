"""A promoted attribute is a column from the first acknowledgement on."""

from __future__ import annotations

import ringlog
from ringlog.client.transport import MemoryTransport
from ringlog.settings import Settings


def test_an_acknowledged_record_has_its_column() -> None:
    settings = Settings(shards=1, replicas=1, promote=("http.status_code integer", "request_id"))
    with ringlog.Pipeline(MemoryTransport(settings)) as pipeline:
        records = [{"body": "x", "http.status_code": 500 + n, "request_id": f"request {n}"} for n in range(3)]
        pipeline.submit_logs([*records, {"body": "y", "http.status_code": "none"}])
        query = 'SELECT "http.status_code", request_id FROM logs ORDER BY record_offset'
        found = [(500, "request 0"), (501, "request 1"), (502, "request 2"), (None, None)]
        assert pipeline.sql(query).fetchall() == found
        assert pipeline.search(attributes={"http.status_code": 501}).arrow()["request_id"].to_pylist() == ["request 1"]
        assert len(pipeline.search(attributes={"http.status_code": "none"}).arrow()) == 1
