"""Reads: one consistent cut of what is stored and what is not stored yet, by SQL, by search, and live."""

from ringlog.query.result import Result, Stored
from ringlog.query.search import Filter, run_search
from ringlog.query.snapshot import Cut, Tail, read_table, take_cut
from ringlog.query.sql import read_stored, run_sql
from ringlog.query.tail import Source, tail

__all__ = [
    "Cut",
    "Filter",
    "Result",
    "Source",
    "Stored",
    "Tail",
    "read_stored",
    "read_table",
    "run_search",
    "run_sql",
    "tail",
    "take_cut",
]
