"""What the control plane costs in a large pipeline: one round of the controller, one answer of the router, one ring.

`python jobs/bench_control.py --shards 8,100,300,1000`. Pure: the statuses are those of a pipeline in which all is well,
which is what the controller looks at ten times a second.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from ringlog.control import Reconciler, shard_names
from ringlog.routing import Leading, Ring, Routes

REPLICAS = 3


def main() -> None:
    """Print one line for each number of shards, and end with all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="8,100,300,1000", help="numbers of shards, with commas")
    found = []
    for count in map(int, parser.parse_args().shards.split(",")):
        names = shard_names(count)
        statuses, routes = (
            all_well(names),
            Routes(
                1,
                names,
                {name: Leading(name, name, "grpc://10.0.0.1:40000", 3) for name in names},
                dict.fromkeys(names, 10**6),
                dict.fromkeys(names, 1.0),
                dict.fromkeys(names, 1e6),
            ),
        )
        reconciler = Reconciler(names, names, REPLICAS, REPLICAS // 2 + 1)
        found.append(
            {
                "shards": count,
                "round_ms": median_ms(lambda: reconciler.decide(statuses, time.monotonic())),  # noqa: B023
                "routes_ms": median_ms(lambda: pickle.dumps(routes.to_plain())),  # noqa: B023
                "routes_bytes": len(pickle.dumps(routes.to_plain())),
                "ring_ms": median_ms(lambda: Ring(dict.fromkeys(names, 1.0))),  # noqa: B023
            }
        )
        print(", ".join(f"{name} {value}" for name, value in found[-1].items()))
    print(orjson.dumps(found).decode())


def all_well(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The statuses of shard actors that lead the shard of their name and keep those of the two before."""
    count = len(names)
    statuses = {}
    for number, name in enumerate(names):
        members = [names[(number + step) % count] for step in range(REPLICAS)]
        kept = [names[(number - step) % count] for step in range(REPLICAS)]
        statuses[name] = {
            "node": f"node-{number}",
            "leading": {name: {"epoch": 3, "members": {one: {"id": f"{one}/{name}"} for one in members}}},
            "keeping": {one: {"id": f"{name}/{one}", "promised": 3, "log_epoch": 3} for one in kept},
        }
    return statuses


def median_ms(work: Callable[[], Any]) -> float:
    """Of eleven times."""
    times = []
    for _ in range(11):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1e3, 3)


if __name__ == "__main__":
    main()
