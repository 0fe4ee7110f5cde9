"""The table evolves: a column for each promoted attribute is added, while archivers and readers go on.

It takes two versions: one has the column, the next also keeps its statistics. Between them nothing is wrong: readers
skip less. Segments are written by whatever version an archiver saw; those without the column are null there for readers
of plain Delta, until a merge makes it, and `promotion.expression` for ringlog's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from deltalake import CommitProperties, DeltaTable

from ringlog.errors import ConfigurationError
from ringlog.schema import Promoted
from ringlog.storage.commit import STATISTICS_KEY, Snapshot, Table
from ringlog.storage.promotion import field_of, promoted_in
from ringlog.storage.segment import STATISTICS


def promote(table: Table, snapshot: Snapshot, wanted: Sequence[Promoted]) -> Snapshot:
    """Make columns of what ``wanted`` names, where they are not there yet; ``snapshot`` itself, or a later one.

    Any number may do it at once; the first says the type. Raises `ConfigurationError` for those whose name is taken,
    or that were promoted with another type, once all the others are there; `Conflict`, `OutcomeUnknown`, `Unavailable`.
    """
    if _missing(snapshot.delta, wanted):
        snapshot = table.alter(lambda delta: _add(delta, wanted), lambda found: not _missing(found.delta, wanted))
    if _statistics(snapshot.delta) != _kept(snapshot.delta):
        snapshot = table.alter(_keep_statistics, lambda found: _statistics(found.delta) == _kept(found.delta))
    held = {one.name.lower(): one for one in snapshot.promoted}
    refused = [one for one in wanted if held.get(one.name.lower()) != one]
    if refused:
        raise ConfigurationError("; ".join(_refusal(table.url, one, held.get(one.name.lower())) for one in refused))
    return snapshot


def _missing(delta: DeltaTable, wanted: Sequence[Promoted]) -> list[Promoted]:
    """To readers of Delta tables, upper and lower case make no difference to a name."""
    names = {field.name.lower() for field in delta.schema().fields}
    return [one for one in wanted if one.name.lower() not in names]


def _add(delta: DeltaTable, wanted: Sequence[Promoted]) -> None:
    # On this very version: it is written down with the column.
    exactly = CommitProperties(max_commit_retries=0)
    fields = [field_of(one, delta.version() + 1) for one in _missing(delta, wanted)]
    delta.alter.add_columns(fields, commit_properties=exactly)


def _keep_statistics(delta: DeltaTable) -> None:
    delta.alter.set_table_properties({STATISTICS_KEY: _statistics(delta)})


def _statistics(delta: DeltaTable) -> str:
    """The columns of which the log is to keep statistics, beside those of which it does."""
    kept = _kept(delta) or ",".join(STATISTICS)
    promoted = [f"`{one.name}`" for one in promoted_in(delta)]  # a name with a dot would else be a path
    return ",".join([kept, *(name for name in promoted if name not in kept.split(","))])


def _kept(delta: DeltaTable) -> str | None:
    kept: str | None = delta.metadata().configuration.get(STATISTICS_KEY)
    return kept


def _refusal(url: str, one: Promoted, held: Promoted | None) -> str:
    if held is None:
        return f"{one.name} cannot be promoted: the table {url} has a column of that name that is no attribute's"
    return (
        f"{one.name} cannot be promoted as {one.kind}: in {url} it is {held.name} {held.kind} already, and the type of "
        f"a column stays. Write {held.name} {held.kind}, or leave it out"
    )
