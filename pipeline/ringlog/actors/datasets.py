"""Datasets of Ray Data: the tasks of a whole Ray cluster read what no process could hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ringlog.actors.cluster import join_ray


def dataset_of(rows: pa.Table) -> Any:
    """``rows`` as a dataset in the Ray cluster of this process; where there is none, Ray is started here."""
    join_ray(start_local=True)
    from ray.data import from_arrow

    return from_arrow(rows)


def dataset_of_table(url: str, version: int, storage_options: Mapping[str, str]) -> Any:
    """One version of the Delta table at ``url``, whose segments Ray's tasks read."""
    join_ray(start_local=True)
    from ray.data import read_delta

    return read_delta(url, version, storage_options=dict(storage_options) or None)
