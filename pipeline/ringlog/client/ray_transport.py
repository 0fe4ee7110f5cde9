"""The way to a pipeline on Ray: actor calls for control, Flight streams for records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringlog.actors.cluster import Cluster, process_fields
from ringlog.client.transport import FlightTransport
from ringlog.routing import Routes


class RayTransport(FlightTransport):
    """Reaches the pipeline ``cluster`` from any process of its Ray cluster."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.settings, cluster.token)
        self._cluster = cluster

    def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> Routes:
        """See `Transport`."""
        return Routes.from_plain(self._cluster.routes(key_bytes, known, wait_s))

    def shards(self) -> tuple[str, ...]:
        """See `Transport`."""
        return self._cluster.shards()

    def fields(self) -> Mapping[str, Any]:
        """See `Transport`."""
        return process_fields()

    def flush(self, timeout_s: float) -> None:
        """See `Transport`."""
        self._cluster.flush(timeout_s)

    def status(self) -> dict[str, Any]:
        """See `Transport`."""
        return self._cluster.status()

    def stop(self) -> None:
        """See `Transport`."""
        self._cluster.stop()
