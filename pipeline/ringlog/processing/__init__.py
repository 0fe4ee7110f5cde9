"""What may happen to a batch before it is routed, and what is read out of a line of text."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from ringlog.processing.lines import Recognised, recognise

__all__ = ["Processor", "Recognised", "recognise"]


class Processor(Protocol):
    """A batch in, a batch out, both of `ringlog.schema.RECORD_SCHEMA`; it may drop, change or add records."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch that is submitted instead."""
