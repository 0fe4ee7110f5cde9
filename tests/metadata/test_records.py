from __future__ import annotations

import orjson
import pytest

from ringlog.errors import CorruptionError
from ringlog.metadata.records import (
    PipelineRecord,
    pipeline_from_bytes,
    pipeline_to_bytes,
    shard_state_from_bytes,
    shard_state_to_bytes,
)
from ringlog.replication import Member, ShardState


def test_a_pipeline_knows_how_many_shards_there_ever_were() -> None:
    made = PipelineRecord.new(3)
    assert (made.shards, made.most) == (3, 3)
    grown, back = made.changed(5), made.changed(5).changed(3)
    assert [(one.id, one.shards, one.most) for one in (grown, back)] == [(made.id, 5, 5), (made.id, 3, 5)]
    assert len({made.nonce, grown.nonce, back.nonce}) == 3
    assert pipeline_from_bytes(pipeline_to_bytes(back)) == back


def test_a_record_from_before_shards_could_be_added_is_read() -> None:
    assert pipeline_from_bytes(orjson.dumps({"id": "mine", "shards": 4})) == PipelineRecord("mine", 4, 4)
    state = ShardState("s", 2, "open", "a", "n", (Member("x", "a"),), 1, retired=7, ended=9)
    plain = orjson.loads(shard_state_to_bytes(state))
    assert shard_state_from_bytes(orjson.dumps(plain)) == state
    del plain["retired"], plain["ended"]
    assert shard_state_from_bytes(orjson.dumps(plain)).retired == 0


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"id": "x"}'])
def test_anything_else_is_no_pipeline(value: bytes) -> None:
    with pytest.raises(CorruptionError, match="no pipeline"):
        pipeline_from_bytes(value)
