"""What `ringlog up` says of a root that was used before."""

from __future__ import annotations

from cli.test_status import LOST, shard, shown
from ringlog.cli.operate import recovered, waiting


def test_what_only_the_journals_had_is_said_over_all_shards() -> None:
    shards = {
        "shard-0": shard(taken_over_records=1200, taken_over_bytes=2_500_000),
        "shard-1": shard(taken_over_records=34, taken_over_bytes=100_000),
        "shard-2": LOST,
    }
    text = shown(*recovered(shards))
    assert text.startswith("recovered 2 of 3 shards, with 1,234 records (2.6 MB) that only the journals had:")


def test_where_the_table_has_everything_that_is_said() -> None:
    shards = {"shard-0": shard(taken_over_records=0, taken_over_bytes=0)}
    assert shown(*recovered(shards)) == "recovered 1 of 1 shards: the table has all that the journals had\n"


def test_a_new_root_has_nothing_to_recover() -> None:
    assert shown(*recovered({"shard-0": shard(epoch=1, taken_over_records=0, taken_over_bytes=0)})) == ""


def test_what_is_not_complete_is_explained_with_the_command_that_would_accept_the_loss() -> None:
    text = shown(*waiting({"shard-0": LOST, "shard-1": shard()}))
    assert "shard-0 is UNAVAILABLE" in text
    assert "ringlog recover --accept-loss shard-0" in text
    assert "shard-1 is" not in text
