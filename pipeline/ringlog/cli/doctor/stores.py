"""The root, the table and the metadata store: tried with what the pipeline itself does there."""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path

from ringlog.cli.doctor.finding import Finding
from ringlog.errors import Conflict, RinglogError
from ringlog.metadata import MetadataStore, open_store
from ringlog.settings import Settings, local_path
from ringlog.storage import Objects, Table

_WATCH_S = 10.0
_CLOCK_S = 2.0
"""Beyond this, times that different machines write into one log no longer tell what came first."""
_SIGNED_S = 900.0
"""Beyond this, S3 refuses every request."""


def root(settings: Settings) -> Iterator[Finding]:
    """The root, and what lies there: each is looked at only where the root itself is well."""
    with _leaving_nothing(settings.root):
        found = _root(settings)
    yield found
    if found.state == "fail":
        yield Finding("table", "skip", "the root fails")
    else:
        yield _table(settings)
    if found.state == "fail" and settings.metadata is None:
        yield Finding("metadata store", "skip", "the root fails, and it lies there")
    else:
        with _leaving_nothing(settings.root):
            yield _metadata(settings)


def _root(settings: Settings) -> Finding:
    """Write, write where something is already, read, list, remove."""
    objects = Objects(settings.root, settings.storage_options())
    folder = f"_ringlog/doctor-{uuid.uuid4().hex}"
    began = time.monotonic()
    try:
        objects.create(f"{folder}/probe", b"first")
        try:
            objects.create(f"{folder}/probe", b"second")
        except FileExistsError:
            kept = objects.read(f"{folder}/probe") == b"first" and objects.list(folder) == [f"{folder}/probe"]
        else:
            kept = False
        objects.remove(f"{folder}/probe")
    except (RinglogError, OSError) as error:
        return Finding("root", "fail", f"{settings.root}: {error}", "give another root, or its credentials")
    if not kept:
        to_do = "a store must keep what `If-None-Match: *` protects: choose another, or a newer version of it"
        return Finding("root", "fail", f"{settings.root}: a second creation of one object was not refused", to_do)
    took_ms = 1000 * (time.monotonic() - began)
    return Finding("root", "ok", f"{settings.root}: written once and no second time, read, removed; {took_ms:.0f} ms")


def _table(settings: Settings) -> Finding:
    """delta-rs reaches the store by another client than everything else does."""
    try:
        snapshot = Table(settings.table_url, settings.storage_options()).find()
    except RinglogError as error:
        return Finding("table", "fail", str(error), "check AWS_ENDPOINT_URL, AWS_REGION and the credentials")
    if snapshot is None:
        return Finding("table", "ok", "none yet: the first archived records make it")
    return Finding("table", "ok", f"version {snapshot.version} at {settings.table_url}")


def _metadata(settings: Settings) -> Finding:
    """Get, compare-and-set, and a watch that hears of it."""
    name = "metadata store"
    options = settings.storage_options()
    folder = f"_ringlog/doctor-{uuid.uuid4().hex}"
    try:
        if settings.metadata is not None:
            return _decides(name, settings.metadata, open_store(settings.root, options, settings.metadata))
        try:
            return _decides(name, settings.root, open_store(f"{settings.root}/{folder}", options))
        finally:
            objects = Objects(settings.root, options)
            for path in objects.list(folder):
                objects.remove(path)
    except (RinglogError, OSError) as error:
        return Finding(name, "fail", str(error), "without it no shard can get a leader; appends to led shards go on")


def _decides(name: str, where: str, store: MetadataStore) -> Finding:
    """``doctor`` is a key of its own; in etcd it stays, one small value."""
    with contextlib.closing(store), ThreadPoolExecutor(1) as beside:
        found = store.get("doctor")
        version = found.version if found else 0
        watching = beside.submit(store.watch, "doctor", version, _WATCH_S)
        began = time.monotonic()
        store.compare_and_set("doctor", uuid.uuid4().bytes, version)
        set_ms = 1000 * (time.monotonic() - began)
        seen = watching.result()
        heard_ms = 1000 * (time.monotonic() - began)
        try:
            store.compare_and_set("doctor", uuid.uuid4().bytes, version)
        except Conflict:
            refused = True
        else:
            refused = False
    if seen is None or seen.version <= version or not refused:
        to_do = "report this: a store that does not compare before it sets would let two lead one shard"
        return Finding(name, "fail", f"{where}: a write was not seen, or one from an old version was taken", to_do)
    return Finding(name, "ok", f"{where}: set in {set_ms:.0f} ms, watched in {heard_ms:.0f} ms, the second refused")


def clock(settings: Settings) -> Finding:
    """This machine's clock against the object store's; safety needs neither, requests and timestamps do."""
    if local_path(settings.root) is not None:
        return Finding("clock", "skip", "not applicable: the root is a local folder")
    options = settings.storage_options()
    url = options.get("AWS_ENDPOINT_URL") or f"https://s3.{options['AWS_REGION']}.amazonaws.com"
    before = time.time()
    try:
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            said = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        said = error.headers["Date"]  # nobody signed it, so it is refused; the answer has a date all the same
    except OSError as error:
        return Finding("clock", "skip", f"{url} gives no answer: {error}")
    if said is None:
        return Finding("clock", "skip", f"{url} says no time")
    return _offset(parsedate_to_datetime(said).timestamp() + 0.5 - (before + time.time()) / 2)


def _offset(seconds: float) -> Finding:
    seen = f"the store's clock is {seconds:+.1f} s from this one (to about a second)"
    to_do = "let NTP or chrony set the clocks of all nodes"
    if abs(seconds) > _SIGNED_S:
        return Finding("clock", "fail", seen, f"{to_do}: S3 refuses requests that are 15 minutes off")
    return Finding("clock", "warn", seen, to_do) if abs(seconds) > _CLOCK_S else Finding("clock", "ok", seen)


@contextlib.contextmanager
def _leaving_nothing(url: str) -> Iterator[None]:
    """What local folders the block makes on the way to ``url`` are gone afterwards, unless something is in them."""
    path = local_path(url)
    made = [] if path is None else [one for one in (Path(path), *Path(path).parents) if not one.exists()]
    yield
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            return  # it was not made, or somebody uses it by now
