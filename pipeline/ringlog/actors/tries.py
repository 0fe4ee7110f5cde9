"""What a controller tries just now: one try of each thing at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ringlog.errors import Unavailable


@dataclass(frozen=True, eq=False)
class Try:
    """What is tried: to take over a shard, or to bring an actor; and who should lead it."""

    what: str
    candidate: str | None


class Tries:
    """The tries that are under way. Any thread may begin and end them."""

    def __init__(self) -> None:
        self._tries: dict[str, Try] = {}
        self._ended = threading.Condition()

    def __contains__(self, what: str) -> bool:
        return what in self._tries

    def begin(self, what: str, candidate: str | None = None, wait_s: float = 0.0) -> Try | None:
        """The caller's try of ``what``, until `end`; waits for that of another, and is None if it does not end."""
        with self._ended:
            if not self._ended.wait_for(lambda: what not in self._tries, wait_s):
                return None
            self._tries[what] = Try(what, candidate)
            return self._tries[what]

    def end(self, this: Try) -> None:
        """It has come to its end, or is given up: then another may begin."""
        with self._ended:
            if self._tries.get(this.what) is this:
                del self._tries[this.what]
                self._ended.notify_all()

    def goes_on(self, this: Try) -> bool:
        """Whether it was not given up."""
        return self._tries.get(this.what) is this

    def under_way(self) -> list[Try]:
        """All of them."""
        with self._ended:
            return list(self._tries.values())


def home(actor: str) -> str:
    """What is tried when an actor is brought back; one try at a time, like a take-over of a shard."""
    return f"the home of {actor}"


def do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Each of them, whatever becomes of the others. Raises `Unavailable`, saying what kept some from it."""
    errors = []
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001  (raised below, with those of the others)
            errors.append(str(error))
    if errors:
        raise Unavailable("; ".join(errors))
