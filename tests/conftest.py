"""What tests share: one S3 server, one etcd server, one Ray cluster with one pipeline. Each is made when first asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import rgw
import ringlog
from etcd import Etcd
from seaweed import SeaweedFS

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server, shared by the whole run."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A real etcd server, shared by the whole run: nobody stops it."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write transcripts anew; read what changed in them")


def pytest_report_header() -> str:
    found = "and Ceph RGW" if rgw.installed() else "alone; with ceph-mon, ceph-osd and radosgw installed, Ceph RGW too"
    return f"S3 servers: SeaweedFS {found}"


@contextlib.contextmanager
def local_ray(**options: object) -> Iterator[None]:
    """A Ray on loopback that ends with the block."""
    import ray

    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        num_cpus=2,
        log_to_driver=False,
        **options,
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ringlog.Pipeline]:
    """A pipeline of three shard actors, three copies of everything, on a local folder; shared by a module's tests."""
    folder: Path = tmp_path_factory.mktemp("pipeline")
    with local_ray():
        yield ringlog.start(str(folder / "root"), journal_dir=str(folder / "journals"))
        ringlog.stop()
