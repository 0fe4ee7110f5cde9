"""One of several client processes of a run: makes its submits, waits for the word on stdin, and submits them.

    RAY_ADDRESS=… python -m ringlog.cli.bench.client SOURCE RECORDS BATCH SEED

Prints ``ready``, and at the end how many records were acknowledged.
"""

from __future__ import annotations

import sys

import ringlog
from ringlog.cli.bench import load


def main() -> None:
    """Make, wait, submit."""
    source, records, batch, seed = sys.argv[1], *map(int, sys.argv[2:5])
    made = load.submits(source, records, batch, seed)
    pipeline = ringlog.connect()
    print("ready", flush=True)
    sys.stdin.readline()
    print(load.submit_all(pipeline, made), flush=True)


if __name__ == "__main__":
    main()
