"""Every error that ringlog raises on purpose. Few classes; each answers "what do I do now?".

::

    RinglogError
    ├── InvalidRecord       fix the named record; nothing of that call was sent
    ├── InvalidQuery        fix the query
    ├── Overloaded          not stored: wait and submit again, or submit less
    ├── Unavailable         not stored, or not readable now: a shard, the cluster or the bucket is away; retry later
    │   └── PipelineEnded   another pipeline runs in its place: connect again
    ├── OutcomeUnknown      may be stored: the retries ended without an answer; look before submitting again
    ├── Fenced              a newer epoch exists: refresh the routes and retry (the client does this by itself)
    ├── ProducerRejected    the shard no longer knows this producer's sequence: start a new producer
    ├── ConfigurationError  change a setting
    ├── Conflict            somebody else changed it first: read again, then decide
    └── CorruptionError     stop and look: bytes on a disk, or a state, that must not exist
"""

from __future__ import annotations


class RinglogError(Exception):
    """The base of every error that ringlog raises on purpose."""


class InvalidRecord(RinglogError, ValueError):
    """Some records cannot be stored as given. Nothing of that call was sent.

    ``problems`` maps the position of each bad record in what was submitted to the reason.
    """

    def __init__(self, message: str, problems: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.problems: dict[int, str] = problems or {}


class InvalidQuery(RinglogError, ValueError):
    """The query cannot be run as written; the message says why."""


class Overloaded(RinglogError):
    """A bounded buffer is full. The records were **not** stored; submit them again after ``retry_after_s``."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(RinglogError):
    """A shard, the cluster or the object store cannot be reached now. Nothing was stored by this call."""


class PipelineEnded(Unavailable):
    """This pipeline has ended, and another runs in its place: connect again. Nothing was stored by this call."""


class OutcomeUnknown(RinglogError):
    """The retries ended without an answer, so the records may or may not be stored; or some of them are, others not.

    Submitting them again through a new producer may store them twice; look first.
    """


class Fenced(RinglogError):
    """The addressed leader or route is older than ``epoch``. Refresh the routes and retry."""

    def __init__(self, message: str, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = epoch


class ProducerRejected(RinglogError):
    """The shard does not know the sequence that this producer continues (evicted, or a jump): start a new one."""


class ConfigurationError(RinglogError, ValueError):
    """A setting is wrong or missing; the message names it and says what to write instead."""


class Conflict(RinglogError):
    """A compare-and-set, or a commit, lost against another writer. Read again, then decide."""


class CorruptionError(RinglogError):
    """Bytes on a disk, or a state, that must not exist. Nothing is guessed: stop and look."""
