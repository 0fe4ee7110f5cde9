"""What the metadata store says of many shards, read at the same time and for no longer than somebody would wait."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable

from ringlog.errors import CorruptionError, RinglogError, Unavailable
from ringlog.metadata.records import (
    PIPELINE_KEY,
    PipelineRecord,
    pipeline_from_bytes,
    shard_key,
    shard_state_from_bytes,
)
from ringlog.metadata.store import MetadataStore
from ringlog.replication import ShardState

_Answer = tuple[str, ShardState | RinglogError | OSError | None]


def read_decided(
    store: MetadataStore, shards: Iterable[str], timeout_s: float
) -> tuple[dict[str, ShardState], str | None]:
    """The state of every shard that has one, and what kept the others from being read; None when nothing did.

    A store that is away is told, not raised: what is known without it is worth showing.
    """
    waiting = set(shards)
    answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()

    def ask(shard: str) -> None:
        try:
            found = store.get(shard_key(shard))
            answers.put((shard, shard_state_from_bytes(found.value) if found else None))
        except (RinglogError, OSError) as error:
            answers.put((shard, error))

    for shard in waiting:
        # A call to a store that is away may outlast this one; it must not keep the process from ending.
        threading.Thread(target=ask, args=(shard,), name="ringlog-decided", daemon=True).start()
    decided: dict[str, ShardState] = {}
    trouble: str | None = None
    deadline = time.monotonic() + timeout_s
    while waiting:
        try:
            shard, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return decided, f"the metadata store gives no answer in {timeout_s:g} s"
        waiting.discard(shard)
        if isinstance(answer, ShardState):
            decided[shard] = answer
        elif answer is not None:
            trouble = f"the metadata store cannot be read: {answer}"
    return decided, trouble


def read_pipeline(store: MetadataStore) -> tuple[PipelineRecord, int]:
    """The pipeline's record, and its version. Raises `Unavailable`, and `CorruptionError` where there is none."""
    found = store.get(PIPELINE_KEY)
    if found is None:
        raise CorruptionError("the root has no metadata: put back its folder `_ringlog`, or what etcd had of it")
    return pipeline_from_bytes(found.value), found.version


def read_all_decided(store: MetadataStore, shards: Iterable[str], timeout_s: float) -> dict[str, ShardState]:
    """The state of every shard that has one. Raises `Unavailable` when it cannot be said of all of them."""
    decided, trouble = read_decided(store, shards, timeout_s)
    if trouble is not None:
        raise Unavailable(trouble)
    return decided
