"""The metadata store: small values under compare-and-set and watch. It decides who leads; nothing else does."""

from __future__ import annotations

from collections.abc import Mapping

from ringlog.errors import ConfigurationError
from ringlog.metadata.decided import read_all_decided, read_decided, read_pipeline
from ringlog.metadata.file import FileStore
from ringlog.metadata.memory import MemoryStore
from ringlog.metadata.s3 import S3Store
from ringlog.metadata.store import MetadataStore, Versioned
from ringlog.settings import local_path

__all__ = [
    "FileStore",
    "MemoryStore",
    "MetadataStore",
    "S3Store",
    "Versioned",
    "open_store",
    "read_all_decided",
    "read_decided",
    "read_pipeline",
]

FOLDER = "_ringlog/metadata"


def open_store(root: str, storage_options: Mapping[str, str], metadata: str | None = None) -> MetadataStore:
    """The metadata store at ``metadata``, an ``etcd://`` URL; without one, it lies beside the table under ``root``.

    ``root`` is a local folder or ``s3://bucket/prefix``. Raises `ConfigurationError`.
    """
    if metadata is not None:
        return _etcd_store(metadata)
    path = local_path(root)
    if path is not None:
        return FileStore(f"{path}/{FOLDER}")
    return S3Store(f"{root}/{FOLDER}", storage_options)


def _etcd_store(url: str) -> MetadataStore:
    try:
        from ringlog.metadata.etcd import EtcdStore
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"metadata in etcd needs {error.name}: pip install 'ringlog[etcd]'") from error
    return EtcdStore(url)
