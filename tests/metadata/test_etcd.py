from __future__ import annotations

import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from etcd import Etcd
from local_server import free_ports
from metadata.contract import MetadataContract, Open
from ringlog.client.current import settings_of
from ringlog.errors import ConfigurationError, Conflict, OutcomeUnknown, Unavailable
from ringlog.metadata import FileStore, Versioned, open_store
from ringlog.metadata import etcd as etcd_module
from ringlog.metadata.etcd import EtcdStore
from ringlog.settings import Settings

SECRET = "canary-52c9"


@pytest.mark.etcd
class TestEtcdStore(MetadataContract):
    rounds = 500

    @pytest.fixture
    def open_again(self, etcd: Etcd) -> Open:
        url = etcd.url(uuid.uuid4().hex)
        return lambda: open_store("/nowhere", {}, url)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Etcd]:
    """A server that a test may kill."""
    with Etcd(tmp_path / "etcd") as server:
        yield server


@pytest.mark.etcd
def test_prefixes_keep_pipelines_apart(etcd: Etcd) -> None:
    prefix = uuid.uuid4().hex
    one, other = EtcdStore(etcd.url(prefix)), EtcdStore(etcd.url(f"{prefix}-other"))
    one.compare_and_set("a", b"one", 0)
    assert other.get("a") is None
    other.compare_and_set("b", b"other", 0)
    assert (one.list(""), other.list("")) == (["a"], ["b"])


@pytest.mark.etcd
def test_an_empty_value_is_a_value(etcd: Etcd) -> None:
    store = EtcdStore(etcd.url(uuid.uuid4().hex))
    store.compare_and_set("a", b"", 0)
    assert store.get("a") == Versioned(b"", 1)


@pytest.mark.etcd
def test_a_killed_server_is_unavailable_and_knows_everything_when_it_is_back(own: Etcd) -> None:
    store = EtcdStore(own.url("x"))
    for version in range(3):
        store.compare_and_set("a", b"%d" % version, version)
    own.kill()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        store.get("a")
    with pytest.raises((Unavailable, OutcomeUnknown)):
        store.compare_and_set("a", b"lost", 3)
    with pytest.raises(Unavailable):
        store.watch("a", 3, 0.2)
    assert time.monotonic() - begun < etcd_module.DEADLINE_S
    own.start()
    own.wait()
    assert store.get("a") == Versioned(b"2", 3)
    assert store.compare_and_set("a", b"3", 3) == Versioned(b"3", 4)


@pytest.mark.etcd
def test_a_frozen_server_is_not_waited_for_beyond_the_deadline(own: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EtcdStore(own.url("x"))
    store.compare_and_set("a", b"one", 0)
    monkeypatch.setattr(etcd_module, "DEADLINE_S", 0.5)
    own.freeze()
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        store.get("a")
    with pytest.raises(OutcomeUnknown, match="Read again"):
        store.compare_and_set("a", b"two", 1)
    assert time.monotonic() - begun < 5.0
    monkeypatch.undo()
    own.thaw()
    own.wait()
    assert store.get("a") in (Versioned(b"one", 1), Versioned(b"two", 2))


@pytest.mark.etcd
def test_an_answer_that_is_lost_on_its_way_leaves_a_write_that_stands(etcd: Etcd) -> None:
    prefix = uuid.uuid4().hex
    with socket.create_server(("127.0.0.1", 0)) as relay, ThreadPoolExecutor(1) as pool:
        relayed = pool.submit(swallow_one_answer, relay, etcd)
        with pytest.raises(OutcomeUnknown, match="Read again"):
            EtcdStore(f"etcd://127.0.0.1:{relay.getsockname()[1]}/{prefix}").compare_and_set("a", b"mine", 0)
        assert b'"succeeded":true' in relayed.result(10.0)
    assert EtcdStore(etcd.url(prefix)).get("a") == Versioned(b"mine", 1)


def swallow_one_answer(relay: socket.socket, etcd: Etcd) -> bytes:
    """Hand one call on to the server; its answer comes back here and not to the caller, whose connection breaks."""
    host, port = etcd.endpoint.split(":")
    caller, _ = relay.accept()
    with caller, socket.create_connection((host, int(port))) as server:
        asked = b""
        while not asked.endswith(b"}"):
            asked += caller.recv(65536)
        server.sendall(asked)
        return server.recv(65536)


@pytest.mark.etcd
def test_a_watch_begun_before_a_restart_reports_the_change_after_it(own: Etcd) -> None:
    watching, writing = EtcdStore(own.url("x")), EtcdStore(own.url("x"))
    writing.compare_and_set("a", b"one", 0)
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watching.watch, "a", 1, 60.0)
        own.await_metric("etcd_debugging_mvcc_watcher_total", 1)
        own.kill()
        own.start()
        own.wait()
        assert not watched.done()
        writing.compare_and_set("a", b"two", 1)
        assert watched.result(30.0) == Versioned(b"two", 2)


@pytest.mark.etcd
def test_a_watch_misses_nothing_between_its_read_and_its_stream(own: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    watching, writing = EtcdStore(own.url("x")), EtcdStore(own.url("x"))
    writing.compare_and_set("a", b"one", 0)
    await_change = watching._await_change

    def late(key: str, revision: int, timeout_s: float) -> None:
        monkeypatch.undo()
        writing.compare_and_set("a", b"two", 1)
        await_change(key, revision, timeout_s)

    monkeypatch.setattr(watching, "_await_change", late)
    begun = time.monotonic()
    assert watching.watch("a", 1, 60.0) == Versioned(b"two", 2)
    assert time.monotonic() - begun < 5.0, "the stream told it, not the silence"


@pytest.mark.etcd
def test_a_watch_goes_on_when_its_revision_was_compacted(own: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    watching, writing = EtcdStore(own.url("x")), EtcdStore(own.url("x"))
    for version in range(3):
        writing.compare_and_set("a", b"%d" % version, version)
    await_change = watching._await_change

    def late(key: str, revision: int, timeout_s: float) -> None:
        monkeypatch.undo()
        writing.compare_and_set("a", b"3", 3)
        writing.compare_and_set("b", b"x", 0)
        writing._ask("kv/compaction", {"revision": str(revision + 1)})
        await_change(key, revision, timeout_s)

    monkeypatch.setattr(watching, "_await_change", late)
    assert watching.watch("a", 3, 30.0) == Versioned(b"3", 4)


def answered(ask: Callable[[], Versioned | None]) -> Versioned | None:
    """What the members say once they have a leader again."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def written(store: EtcdStore, value: bytes, expected: int) -> Versioned | None:
    """Write ``value`` as the next version of "a"; where it is not known whether it stands, look, and write it again."""
    try:
        return store.compare_and_set("a", value, expected)
    except OutcomeUnknown:
        found = answered(lambda: store.get("a"))
        return written(store, value, expected) if found is not None and found.version == expected else found
    except Conflict:
        return store.get("a")  # that of a write whose answer was lost


@pytest.mark.etcd
def test_of_three_members_one_may_die_and_the_others_answer(tmp_path: Path) -> None:
    ports = dict(zip(("one", "two", "three"), free_ports(3), strict=True))
    members = [Etcd(tmp_path / name, name, ports) for name in ports]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.kill)
            member.start()
        for member in members:
            member.wait()
        store = EtcdStore(f"etcd://{','.join(member.endpoint for member in members)}/x")
        for version, member in enumerate(members):
            EtcdStore(member.url("x")).compare_and_set("a", b"%d" % version, version)
        with ThreadPoolExecutor(1) as pool:
            watched = pool.submit(store.watch, "a", 3, 60.0)
            members[0].await_metric("etcd_debugging_mvcc_watcher_total", 1)
            members[0].kill()
            for member in members[1:]:
                member.wait()
            assert answered(lambda: store.get("a")) == Versioned(b"2", 3)
            assert answered(lambda: written(store, b"3", 3)) == Versioned(b"3", 4)
            assert watched.result(30.0) == Versioned(b"3", 4)
        members[1].kill()
        members[2].await_metric("etcd_server_has_leader", 0)
        with pytest.raises(Unavailable, match="no leader"):
            store.get("a")
        with pytest.raises((Unavailable, OutcomeUnknown)):
            store.compare_and_set("a", b"4", 4)


@pytest.mark.etcd
def test_an_endpoint_that_is_away_is_passed_over(etcd: Etcd) -> None:
    url = f"etcd://127.0.0.1:{free_ports(1)[0]},{etcd.endpoint}/{uuid.uuid4().hex}"
    assert EtcdStore(url).compare_and_set("a", b"one", 0) == Versioned(b"one", 1)
    assert EtcdStore(url).get("a") == Versioned(b"one", 1)
    assert EtcdStore(url).watch("a", 0, 0.0) == Versioned(b"one", 1)


@pytest.mark.etcd
def test_an_endpoint_that_is_silent_is_passed_over_by_what_may_be_asked_twice(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_module, "DEADLINE_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"etcd://127.0.0.1:{silent.getsockname()[1]},{etcd.endpoint}/{uuid.uuid4().hex}"
        assert EtcdStore(url).get("a") is None
        store = EtcdStore(url)
        with pytest.raises(OutcomeUnknown):
            store.compare_and_set("a", b"one", 0)
        assert store.compare_and_set("a", b"one", 0) == Versioned(b"one", 1), "the next call begins elsewhere"


@pytest.mark.etcd
def test_a_full_etcd_wrote_nothing(own: Etcd) -> None:
    store = EtcdStore(own.url("x"))
    store._ask("maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"})
    with pytest.raises(Unavailable, match="space exceeded"):
        store.compare_and_set("a", b"one", 0)
    assert store.get("a") is None


@pytest.mark.etcd
def test_an_etcd_that_wants_a_user_is_a_wrong_setting(own: Etcd) -> None:
    store = EtcdStore(own.url("x"))
    store._ask("auth/user/add", {"name": "root", "password": SECRET})
    store._ask("auth/role/add", {"name": "root"})
    store._ask("auth/user/grant", {"user": "root", "role": "root"})
    store._ask("auth/enable", {})
    for ask in (lambda: store.get("a"), lambda: store.compare_and_set("a", b"x", 0), lambda: store.list("")):
        with pytest.raises(ConfigurationError, match="user name is empty"):
            ask()


@pytest.mark.etcd
def test_a_server_without_the_gateway_is_a_wrong_setting(own: Etcd) -> None:
    with pytest.raises(ConfigurationError, match="404"):
        EtcdStore(f"etcd://127.0.0.1:{own.peer_port}/x").get("a")


def test_the_default_follows_the_root(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path), {}, Settings().metadata), FileStore)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ringlog.metadata.etcd")
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ringlog\[etcd\]'"):
        open_store("/nowhere", {}, "etcd://127.0.0.1:2379/x")


@pytest.mark.parametrize(
    "url",
    ["etcd://one:2379/logs", "etcd://one:1,two.example:2,[::1]:3/a/b", "etcd://one:2379/logs/"],
)
def test_a_url_names_endpoints_and_a_prefix(url: str) -> None:
    assert Settings(metadata=url).public()["metadata"] == url
    EtcdStore(url).close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "one:2379/logs",
        "http://one:2379/logs",
        "etcd://one/logs",
        "etcd://one:2379",
        "etcd://one:2379/",
        "etcd://one:99999/logs",
        "etcd://one:2379,/logs",
        "etcd://one:2379/../logs",
        f"etcd://me:{SECRET}@one:2379/logs",
        f"etcd://one:2379/logs?password={SECRET}",
    ],
)
def test_another_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="metadata must be etcd://host:port") as refused:
        settings_of(None, metadata=url)
    assert SECRET not in str(refused.value)
    with pytest.raises(ValidationError) as invalid:
        Settings(metadata=url)
    assert SECRET not in str(invalid.value)
