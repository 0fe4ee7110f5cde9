"""compact, expire, vacuum, verify: the table by itself, whether or not a pipeline runs on it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from ringlog.actors.housekeeping import expiries
from ringlog.cli import show
from ringlog.client.current import settings_of
from ringlog.errors import ConfigurationError
from ringlog.metadata import open_store
from ringlog.metadata.records import PIPELINE_KEY
from ringlog.settings import MIB, Settings
from ringlog.storage import Table, find_journals
from ringlog.storage.compaction import Compacted, plan
from ringlog.storage.compaction import compact as merge
from ringlog.storage.examination import Problem
from ringlog.storage.retention import Expired, Expiry, older_than
from ringlog.storage.retention import expire as remove
from ringlog.storage.retention import vacuum as sweep
from ringlog.storage.verification import JournalsReport, verify_journals, verify_table

Root = Annotated[str | None, typer.Option(help="A local folder or s3://bucket/prefix; default: that of the settings.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def compact(root: Root = None, dry_run: DryRun = False, json: Json = False) -> None:
    """Merge small segments into few large ones; readers and archivers go on meanwhile."""
    _, table = open_table(root)
    snapshot = table.snapshot()
    merges = plan(snapshot.segments(), time.time())
    if dry_run:
        count, size = sum(len(one.segments) for one in merges), sum(one.size_bytes for one in merges)
        _say(
            json,
            {"dry_run": True, "would_merge": count, "would_write": len(merges), "would_read_bytes": size},
            f"would merge {count} segments, {size / MIB:.1f} MiB, into {len(merges)}; then perhaps those once more",
        )
        return
    with show.byte_progress() as progress:
        task = progress.add_task("compact", total=sum(one.size_bytes for one in merges) or None)

        def on_merge(done: Compacted) -> None:
            progress.update(task, advance=done.read_bytes)

        done = merge(table, time.time(), on_merge=on_merge)
    left = len(table.snapshot().segments())
    _say(
        json,
        {**asdict(done), "segments": left},
        f"merged {done.merged} segments into {done.written}; the table has {left} now",
        *(f"left as it is: {one}" for one in done.broken),
    )
    if done.broken:
        raise typer.Exit(1)


def expire(
    days: Annotated[float | None, typer.Option(help="Records of days that ended longer ago than this.", min=0)] = None,
    size: Annotated[
        str | None, typer.Option("--bytes", help="The oldest, until the table has no more: 500000000, 100GB, 20GiB.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="Only those of this service.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    root: Root = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove old or unwanted records from the table; by default what the settings say. Files stay until a vacuum."""
    settings, table = open_table(root)
    now_s = time.time()
    if (days, size, service, tenant) == (None, None, None, None):
        chosen = list(expiries(settings, now_s))
        if not chosen:
            raise ConfigurationError(
                "neither retention_days nor retention_bytes is set, so nothing expires: "
                "give --days, --bytes, --service or --tenant"
            )
    else:
        before = None if days is None else older_than(days * 86_400, now_s)
        chosen = [Expiry(before=before, service=service, tenant=tenant, bytes_max=_bytes(size))]
    total = Expired()
    with show.errors.status("looking what is to go") as progress:

        def on_step(done: Expired) -> None:
            nonlocal total
            total += done
            progress.update(f"{total.records} records so far")

        for expiry in chosen:
            remove(table, expiry, dry_run, on_step)
    would = "would expire" if dry_run else "expired"
    _say(
        json,
        {**asdict(total), "dry_run": dry_run},
        f"{total.records} records {would}: {total.segments} segments, {total.bytes / MIB:.1f} MiB, as a whole, and "
        f"some of {total.rewritten} more",
    )


def vacuum(root: Root = None, dry_run: DryRun = False, json: Json = False) -> None:
    """Remove the files that no version of the last `history_hours` needs, and that no archiver can still commit."""
    settings, table = open_table(root)
    removed: list[str] = []
    with show.errors.status("looking for files") as progress:

        def on_removed(path: str) -> None:
            removed.append(path)
            progress.update(f"{len(removed)} files removed")

        found = sweep(table, settings.history_hours, dry_run, on_removed)
    would = "would be removed" if dry_run else "removed"
    _say(
        json,
        {"dry_run": dry_run, "files": found, "history_hours": settings.history_hours},
        f"{len(found)} files {would}, which no version of the last {settings.history_hours} h needs",
    )


def verify(
    root: Root = None,
    journal_dir: Annotated[
        str | None, typer.Option(help="Local folder of the journals; default: the settings'.")
    ] = None,
    json: Json = False,
) -> None:
    """Read the table and this machine's journals again, and say what is wrong and where; exit code 1 if anything is."""
    given = {} if journal_dir is None else {"journal_dir": journal_dir}
    settings, table = open_table(root, **given)
    journals = _journals(settings, table)
    with show.byte_progress() as progress:
        size = sum(segment.size_bytes for segment in table.snapshot().segments())
        task = progress.add_task("verify", total=size or None)
        report = verify_table(table, lambda segment: progress.update(task, advance=segment.size_bytes))
    problems = [*report.problems, *journals.problems]
    found = {
        "ok": not problems,
        "version": report.version,
        "segments": report.segments,
        "records": report.records,
        "bytes": report.bytes,
        "shards": report.stored,
        "journals": len(journals.journals),
        "problems": [asdict(problem) for problem in problems],
    }
    read = f"{report.segments} segments with {report.records} records, {report.bytes / MIB:.1f} MiB"
    _say(
        json,
        found,
        f"read {read}, of version {report.version}, and {len(journals.journals)} journals in {settings.journal_dir}",
        *map(_line, problems),
        f"{len(problems)} problems" if problems else "all is well",
    )
    if problems:
        raise typer.Exit(1)


def open_table(root: str | None, **given: Any) -> tuple[Settings, Table]:
    """The settings with ``root`` and what else is ``given``, and their table, which need not exist."""
    settings = settings_of(root, **given)
    return settings, Table(settings.table_url, settings.storage_options())


def _journals(settings: Settings, table: Table) -> JournalsReport:
    """Those of this root's pipeline, against the table; where the root does not say which it is, all that are here."""
    with contextlib.closing(open_store(settings.root, settings.storage_options(), settings.metadata)) as store:
        found = store.get(PIPELINE_KEY)
    if found is None:
        return verify_journals(find_journals(Path(settings.journal_dir)))
    pipeline = orjson.loads(found.value)["id"]
    return verify_journals(find_journals(Path(settings.journal_dir), pipeline), table)


def _bytes(size: str | None) -> int | None:
    if size is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        raise ConfigurationError(
            f"{size!r} is no size: give bytes, or a number with KB, MB, GB, TB or KiB, MiB, …"
        ) from None


def _line(problem: Problem) -> str:
    """Where, then what."""
    where = [] if problem.file is None else [problem.file]
    where += [] if problem.row_group is None else [f"row group {problem.row_group}"]
    if problem.shard is not None:
        records = "" if problem.start is None else f" [{problem.start}, {problem.end})"
        where.append(f"{problem.shard}{records}")
    return f"{', '.join(where) or 'the table'}: {problem.what}"


def _say(json: bool, found: dict[str, Any], *lines: str) -> None:
    if json:
        show.json_line(found)
    else:
        for line in lines:
            show.console.print(show.plain(line), markup=False, highlight=False, soft_wrap=True)


COMMANDS = (compact, expire, vacuum, verify)
