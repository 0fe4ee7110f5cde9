"""A participant at work: its cores, its journal, and the thread that lets nothing out before it is on disk."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringlog.replication import Message, Output, Participant
from ringlog.settings import Settings
from ringlog.storage import Journal
from ringlog.storage.journal import LOST

Deliver = Callable[[Message], None]
Effect = tuple[Output, Deliver]


@dataclass(frozen=True)
class Place:
    """A replica that a shard may have: its journal's id, the shard actor it lives on, and where that listens."""

    id: str
    actor: str
    location: str


class HostedParticipant:
    """The participant of ``actor`` in ``shard``, with the journal in ``folder``.

    Its methods are called by one thread only. The cores may run ahead of the disk; a thread of the journal's own
    applies the outputs in order, gathers what has piled up into one write and one fsync, and only then delivers the
    answers. A failed write ends it: ``on_failure`` is told, and nothing is ever delivered again.
    """

    def __init__(
        self, actor: str, folder: Path, shard: str, settings: Settings, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._journal = Journal(folder, shard, settings.fsync, settings.journal_file_bytes_max)
        self.core = Participant(actor, self._journal.state, settings.shard_buffer_bytes_max)
        self._group = settings.fsync == "group"
        self._interval_s = settings.fsync_interval_ms / 1000 if settings.fsync == "interval" else None
        self._synced_at = time.monotonic()
        self._on_failure = on_failure
        self._effects: queue.SimpleQueue[Effect | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"ringlog-journal-{shard}", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """The UUID of the journal."""
        return self.core.replica.id

    def request(self, message: Any, deliver: Deliver) -> None:
        """Feed ``message`` to the replica; its answers go to ``deliver`` once they are true on disk."""
        output = self.core.request(message)
        if output:
            self._effects.put((output, deliver))

    def close(self) -> None:
        """Finish what is waiting and close the journal."""
        self._effects.put(None)
        self._thread.join()

    def remove(self) -> None:
        """Close the journal, and remove it; what was set aside in it stays."""
        self.close()
        if not list(self._journal.folder.glob(f"{LOST}*")):
            shutil.rmtree(self._journal.folder)

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._journal.close()
        except BaseException as error:  # noqa: BLE001  (the disk or the core's promise failed: this replica is over)
            self._on_failure(error)

    def _until_sync(self) -> float | None:
        """How long until what was written must be synced; None where nothing but `group` or the end does that."""
        if self._interval_s is None:
            return None
        return max(0.0, self._synced_at + self._interval_s - time.monotonic())

    def _step(self) -> bool:
        effects: list[Effect | None] = []
        with contextlib.suppress(queue.Empty):  # then it is time to sync what was written before
            effects.append(self._effects.get(timeout=self._until_sync()))
        while not self._effects.empty():
            effects.append(self._effects.get())
        outputs = [effect for effect in effects if effect is not None]
        ops = [op for output, _ in outputs for op in output.store]
        if ops:
            self._journal.apply(ops)
        if self._group or self._until_sync() == 0.0:
            self._journal.sync()
            self._synced_at = time.monotonic()
        for output, deliver in outputs:
            for message in output.send:
                deliver(message)
            for caller, answer in output.reply:
                caller(answer)
        return len(outputs) == len(effects)
