"""What lasts: replica journals on local disks, and the Delta table with its segments."""

from ringlog.storage.commit import Flush, Snapshot, Table
from ringlog.storage.entries import read_entries
from ringlog.storage.inspection import JournalReport, find_journals, inspect
from ringlog.storage.journal import Journal
from ringlog.storage.objects import Objects
from ringlog.storage.segment import Segment, write_segments

__all__ = [
    "Flush",
    "Journal",
    "JournalReport",
    "Objects",
    "Segment",
    "Snapshot",
    "Table",
    "find_journals",
    "inspect",
    "read_entries",
    "write_segments",
]
