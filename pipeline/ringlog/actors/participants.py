"""A participant at work: its cores, its journal, and the thread that lets nothing out before it is on disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringlog.replication import Message, Output, Participant
from ringlog.settings import Settings
from ringlog.storage import Journal

Deliver = Callable[[Message], None]
Effect = tuple[Output, Deliver]


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

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._journal.close()
        except BaseException as error:  # noqa: BLE001  (the disk or the core's promise failed: this replica is over)
            self._on_failure(error)

    def _step(self) -> bool:
        try:
            effects = [self._effects.get(timeout=self._interval_s)]
        except queue.Empty:
            self._journal.sync()
            return True
        while not self._effects.empty():
            effects.append(self._effects.get())
        outputs = [effect for effect in effects if effect is not None]
        ops = [op for output, _ in outputs for op in output.store]
        if ops:
            self._journal.apply(ops)
            if self._group:
                self._journal.sync()
        for output, deliver in outputs:
            for message in output.send:
                deliver(message)
            for caller, answer in output.reply:
                caller(answer)
        return len(outputs) == len(effects)
