"""Remove old or unwanted records: `ray job submit --working-dir jobs -- python expire.py --days 30`.

Their files stay until the history is over: see `compact.py`.
"""

import argparse
import time

import ringlog
from ringlog.client.current import settings_of
from ringlog.storage import Table
from ringlog.storage.retention import Expiry, expire, older_than


def main() -> None:
    """Remove what the arguments name, and say how many records that were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="default: that of the running pipeline")
    parser.add_argument("--days", type=float, help="records of days that ended longer ago than this")
    parser.add_argument("--bytes", type=int, help="the oldest, until the table has no more")
    parser.add_argument("--service", help="only those of this service")
    parser.add_argument("--tenant", help="only those of this tenant")
    parser.add_argument("--dry-run", action="store_true", help="only say how many that would be")
    given = parser.parse_args()
    settings = settings_of(given.root or ringlog.connect().status()["root"])
    before = None if given.days is None else older_than(given.days * 86_400, time.time())
    expiry = Expiry(before=before, service=given.service, tenant=given.tenant, bytes_max=given.bytes)
    gone = expire(Table(settings.table_url, settings.storage_options()), expiry, dry_run=given.dry_run)
    print(f"{gone.records} records {'would expire' if given.dry_run else 'expired'}")


if __name__ == "__main__":
    main()
