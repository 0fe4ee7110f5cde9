"""Keep the table of this cluster's pipeline small: `ray job submit --working-dir jobs -- python compact.py`.

Merges small segments, then removes the files that no version of the last hours needs. A running pipeline does so by
itself, a little at a time; this does all of it at once, on the node that runs the job.
"""

import argparse
import time

import ringlog
from ringlog.client.current import settings_of
from ringlog.storage import Table
from ringlog.storage.compaction import compact
from ringlog.storage.retention import vacuum


def main() -> None:
    """Compact and vacuum, and say what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="default: that of the running pipeline")
    settings = settings_of(parser.parse_args().root or ringlog.connect().status()["root"])
    table = Table(settings.table_url, settings.storage_options())
    done = compact(table, time.time(), on_merge=lambda one: print(f"merged {one.merged} segments into {one.written}"))
    for broken in done.broken:
        print(f"left as it is: {broken}")
    removed = vacuum(table, settings.history_hours)
    print(f"{len(table.snapshot().segments())} segments; {len(removed)} files removed")
    if done.broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
