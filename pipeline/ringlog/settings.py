"""Settings: data only, and the only file that takes settings from the environment.

Keyword arguments come first, then the environment (``RINGLOG_ROOT``, …), then ``ringlog.toml`` or
``[tool.ringlog]`` of ``pyproject.toml`` in the working directory.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ringlog.schema import Promoted

KIB = 1024
MIB = 1024 * KIB

Acks = Literal["leader", "quorum", "stored"]
Fsync = Literal["group", "interval", "never"]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

_WORD = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_ENDPOINT = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}"
_ETCD = re.compile(rf"etcd://({_ENDPOINT}(?:,{_ENDPOINT})*)/({_WORD}(?:/{_WORD})*)/?")


def local_path(url: str) -> str | None:
    """The absolute path of a local ``url``, or None where it lies on an object store.

    >>> local_path("file:///var/logs")
    '/var/logs'
    >>> local_path("s3://bucket/logs") is None
    True
    """
    if url.startswith("file://"):
        return url.removeprefix("file://")
    if "://" in url:
        return None
    return str(Path(url).expanduser().absolute())


def etcd_address(url: str) -> tuple[tuple[str, ...], str]:
    """The endpoints and the prefix that an ``etcd://`` URL names. Raises `ValueError`, which does not repeat the URL.

    >>> etcd_address("etcd://one:2379,two:2379/logs")
    (('one:2379', 'two:2379'), 'logs')
    """
    parts = _ETCD.fullmatch(url)
    endpoints = tuple(parts[1].split(",")) if parts else ()
    if parts is None or any(int(endpoint.rpartition(":")[2]) > 65535 for endpoint in endpoints):
        raise ValueError("metadata must be etcd://host:port[,host:port]/prefix, without a user or a password")
    return endpoints, parts[2]


class Settings(BaseSettings):
    """Everything that can be chosen about a pipeline. Units stand last in the names."""

    model_config = SettingsConfigDict(
        env_prefix="RINGLOG_",
        toml_file="ringlog.toml",
        pyproject_toml_table_header=("tool", "ringlog"),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a wrong value may hold a secret
    )

    root: str = "~/ringlog"
    """Where the table and the metadata live: a local folder or an ``s3://bucket/prefix`` URL."""
    metadata: str | None = None
    """``etcd://host:port[,host:port]/prefix``, a prefix for each root, to keep the metadata in etcd instead.

    Needs ``pip install 'ringlog[etcd]'``."""
    journal_dir: str = "~/.ringlog/journals"
    """Local folder of the replicas' journals, on every node. Must survive a restart: not a tmpfs."""
    shards: Positive = 3
    """How many shards, and so shard actors, a new root begins with; ``ringlog shards`` changes it."""
    replicas: Positive = 3
    """Copies of each unarchived batch; a majority of them must have it on disk before it is acknowledged."""
    acks: Acks = "quorum"
    """What an acknowledgement waits for: ``leader`` (its disk), ``quorum`` (a majority's), ``stored`` (the table)."""
    fsync: Fsync = "group"
    """When journals are synced: ``group`` (before each answer, many together), ``interval`` or ``never``.

    Only ``group`` survives a power cut."""
    fsync_interval_ms: Positive = 200
    """How often, with ``fsync="interval"``."""

    batch_rows_max: Positive = 10_000
    """One append carries at most so many records …"""
    batch_bytes_max: Positive = MIB
    """… and so many bytes; larger batches are cut."""
    linger_ms: Annotated[int, Field(ge=0)] = 20
    """How long a submit that nobody waits for may be held back to fill a batch."""
    submit_timeout_s: PositiveFloat = 30.0
    """How long a submit retries before it raises."""
    client_buffer_bytes_max: Positive = 64 * MIB
    """What one client process may hold unacknowledged."""

    record_bytes_max: Positive = 256 * KIB
    """A larger record is refused."""
    shard_buffer_bytes_max: Positive = 256 * MIB
    """What a shard may hold that is not archived yet; beyond it callers get ``Overloaded``."""
    flush_bytes: Annotated[int, Field(gt=0, le=1024 * MIB)] = 32 * MIB
    """A shard archives when it holds this many unarchived bytes, or half of what it may hold …"""
    flush_age_s: PositiveFloat = 30.0
    """… or when its oldest unarchived record has waited this long."""
    journal_file_bytes_max: Positive = 32 * MIB
    """Where a journal begins its next file; what is archived is removed file by file."""
    rebalance_interval_s: PositiveFloat = 5.0
    """How often the router looks whether the ring's weights should change."""

    promote: Annotated[tuple[str, ...], NoDecode] = ()
    """Attributes that become columns of the table: ``"request_id"``, or with a type ``"http.status_code integer"``.

    A type is ``string``, ``integer``, ``number`` or ``boolean``. One text, as in the environment, names several with
    commas. A column that was added stays."""

    retention_days: PositiveFloat | None = None
    """Records of days that ended longer ago leave the table; without it, none does by age."""
    retention_bytes: Positive | None = None
    """The oldest segments leave the table once all of them have more bytes than this."""
    history_hours: Positive = 24
    """How long earlier versions of the table stay readable, and so how long a query may run. Then files are removed."""

    s3_endpoint_url: str | None = None
    """For S3-compatible stores; AWS itself needs none. ``AWS_ENDPOINT_URL`` is read where this is unset."""
    s3_region: str | None = None
    """``AWS_REGION`` or ``AWS_DEFAULT_REGION`` is read where this is unset."""
    s3_access_key_id: SecretStr | None = None
    """Never sent to another process: each reads its own. ``AWS_ACCESS_KEY_ID`` is read where this is unset."""
    s3_secret_access_key: SecretStr | None = None
    """The same; ``AWS_SECRET_ACCESS_KEY``."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (no .env: one place less to look)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments, environment, ringlog.toml, pyproject.toml; the first that names a value wins."""
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls),
            PyprojectTomlConfigSettingsSource(settings_cls),
        )

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        path = local_path(root)
        if path is not None:
            return path
        if not root.startswith("s3://") or len(root) <= len("s3://"):
            raise ValueError(f"root must be a local folder or s3://bucket/prefix, not {root!r}")
        return root.rstrip("/")

    @field_validator("promote", mode="before")
    @classmethod
    def _listed(cls, promote: Any) -> Any:
        return [text for text in promote.split(",") if text.strip()] if isinstance(promote, str) else promote

    @field_validator("promote")
    @classmethod
    def _promotable(cls, promote: tuple[str, ...]) -> tuple[str, ...]:
        names = [Promoted.parse(text).name for text in promote]
        twice = next((name for at, name in enumerate(names) if name.lower() in map(str.lower, names[:at])), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is promoted twice: upper and lower case make no difference to a column's name")
        return promote

    @field_validator("metadata")
    @classmethod
    def _etcd(cls, url: str | None) -> str | None:
        if url is not None:
            etcd_address(url)
        return url

    @field_validator("journal_dir")
    @classmethod
    def _local(cls, folder: str) -> str:
        path = local_path(folder)
        if path is None:
            raise ValueError(f"journal_dir must be a local folder, not {folder!r}: an ack is an fsync on a disk")
        return path

    @model_validator(mode="after")
    def _enough_actors(self) -> Settings:
        if self.replicas > self.shards:
            raise ValueError(
                f"replicas={self.replicas} needs at least as many shards (each shard actor keeps one copy), "
                f"but shards={self.shards}"
            )
        return self

    @property
    def table_url(self) -> str:
        """The Delta table that holds everything archived."""
        return f"{self.root}/logs"

    @property
    def promoted(self) -> tuple[Promoted, ...]:
        """What ``promote`` names."""
        return tuple(map(Promoted.parse, self.promote))

    @property
    def quorum(self) -> int:
        """How many replicas must have a batch before it is acknowledged.

        >>> Settings(replicas=3).quorum
        2
        """
        return self.replicas // 2 + 1

    def public(self) -> dict[str, Any]:
        """What may travel between processes and be shown: every setting that was chosen, without the secrets.

        Actors read the secrets from their own environment instead.
        """
        return self.model_dump(exclude={"s3_access_key_id", "s3_secret_access_key"})

    def storage_options(self) -> dict[str, str]:
        """The object store's options in the spelling of delta-rs; empty for a local root."""
        if local_path(self.root) is not None:
            return {}
        environment = os.environ
        chosen = {
            "AWS_ENDPOINT_URL": self.s3_endpoint_url or environment.get("AWS_ENDPOINT_URL"),
            "AWS_REGION": self.s3_region
            or environment.get("AWS_REGION")
            or environment.get("AWS_DEFAULT_REGION", "us-east-1"),
            "AWS_ACCESS_KEY_ID": _reveal(self.s3_access_key_id) or environment.get("AWS_ACCESS_KEY_ID"),
            "AWS_SECRET_ACCESS_KEY": _reveal(self.s3_secret_access_key) or environment.get("AWS_SECRET_ACCESS_KEY"),
            "AWS_SESSION_TOKEN": environment.get("AWS_SESSION_TOKEN"),
        }
        options = {name: value for name, value in chosen.items() if value}
        if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
        return options


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
