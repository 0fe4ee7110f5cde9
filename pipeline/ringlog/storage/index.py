"""The index of a segment: in which blocks of its rows a word stands, so that one id is found without reading the rest.

It lies in the segment's own Parquet file, between the row groups and the footer, whose metadata says where; whoever
does not know it never sees it. So it is written, merged and removed with its segment, and covered by the segment's
digest. A segment without one (somebody else wrote it) is scanned like before.

Words are the trace ids, and the texts that are values in the JSON of the attributes, from `WORD_LENGTH_MIN` bytes on.
What always holds: the blocks that `Index.blocks` gives for a word are all that hold it; a few of them may not, since
their words' hashes begin alike.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from ringlog.schema import text_offsets

METADATA_KEY = b"ringlog.index"
"""The key in the footer under which `Built.where` stands."""
BLOCK_ROWS = 4096
"""Rows of a block: those of one page of each column."""
WORD_LENGTH_MIN = 8
"""The least bytes of a word. Shorter ones are rarely ids, and stand in many records."""

_VERSION = 1
_WORD_LENGTH_MAX = 64  # of a longer word its beginning and its length count
_BUCKET_ENTRIES = 64
_REMAINDER_BITS = 16
_BLOCK = np.uint64(0xFFFF)  # while an index is built, the last bits of a word's hash give way to its block
_ESCAPED = "\\escaped"  # no word has a backslash: it stands for the records whose JSON has one

_QUOTE, _BACKSLASH, _COLON = ord('"'), ord("\\"), ord(":")

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Built:
    """An index as bytes, and what to keep in the footer to find it: ``where(offset)`` for the offset of ``data``."""

    data: bytes
    entries: int
    bits: int
    wide: bool

    def where(self, offset: int) -> bytes:
        """The value for `METADATA_KEY`."""
        return orjson.dumps(
            {
                "version": _VERSION,
                "offset": offset,
                "entries": self.entries,
                "bits": self.bits,
                "wide": self.wide,
                "block_rows": BLOCK_ROWS,
            }
        )


def build(rows: pa.Table) -> Built:
    """The index of ``rows``, in the order in which they stand in the segment.

    An entry is a word's hash and a block. The first ``bits`` of the hash choose a bucket; the bucket keeps the next 16
    and the block. Before the buckets stand their first entries and their checksums.
    """
    hashes, blocks = _words(rows)
    pairs = np.sort((hashes & ~_BLOCK) | blocks)
    pairs = pairs[np.diff(pairs, prepend=~pairs[:1]) != 0]
    bits = (len(pairs) // _BUCKET_ENTRIES).bit_length()
    ends = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits) if bits else pairs[:0]
    first = np.concatenate([[0], np.searchsorted(pairs, ends), [len(pairs)]])
    wide = rows.num_rows > BLOCK_ROWS * 256
    remainders = (pairs >> np.uint64(64 - bits - _REMAINDER_BITS)).astype("<u2")
    numbers = (pairs & _BLOCK).astype("<u2" if wide else "u1")
    buckets = [
        remainders[start:end].tobytes() + numbers[start:end].tobytes()
        for start, end in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)
    ]
    sums = np.array([zlib.crc32(bucket) for bucket in buckets], dtype="<u4")
    return Built(first.astype("<u4").tobytes() + sums.tobytes() + b"".join(buckets), len(pairs), bits, wide)


@dataclass(frozen=True)
class Index:
    """The index of one segment. ``read(offset, length)`` gives bytes of its file."""

    offset: int
    bits: int
    wide: bool
    block_rows: int
    first: npt.NDArray[np.uint32]
    sums: npt.NDArray[np.uint32]

    def blocks(self, words: list[str], read: Callable[[int, int], bytes]) -> list[int] | None:
        """The blocks that may hold a record with all of ``words``, each of which `is_word`, in order.

        None where the index does not read back: then any may.
        """
        escaped = self._blocks(_ESCAPED, read)
        found = [self._blocks(word, read) for word in words]
        if escaped is None or any(blocks is None for blocks in found):
            return None
        return sorted(set.intersection(*(blocks or set() for blocks in found)) | escaped)

    def _blocks(self, word: str, read: Callable[[int, int], bytes]) -> set[int] | None:
        kept = _hash(word) >> (64 - self.bits - _REMAINDER_BITS)
        bucket, remainder = kept >> _REMAINDER_BITS, kept % (1 << _REMAINDER_BITS)
        start, count = int(self.first[bucket]), int(self.first[bucket + 1]) - int(self.first[bucket])
        size = 4 if self.wide else 3
        data = read(self.offset + self.first.nbytes + self.sums.nbytes + start * size, count * size)
        if zlib.crc32(data) != int(self.sums[bucket]):
            return None
        remainders = np.frombuffer(data, dtype="<u2", count=count)
        numbers = np.frombuffer(data, dtype="<u2" if self.wide else "u1", offset=2 * count)
        return {int(number) for number in numbers[remainders == remainder]}


def open_index(metadata: Any, read: Callable[[int, int], bytes]) -> Index | None:
    """The index that a Parquet file's key-value ``metadata`` tells of; None where there is none that is known here."""
    said = (metadata or {}).get(METADATA_KEY)
    where = orjson.loads(said) if said else {}
    if where.get("version") != _VERSION:
        return None
    buckets = 1 << where["bits"]
    data = read(where["offset"], 4 * (2 * buckets + 1))
    first = np.frombuffer(data, dtype="<u4", count=buckets + 1)
    sums = np.frombuffer(data, dtype="<u4", offset=first.nbytes)
    return Index(where["offset"], where["bits"], where["wide"], where["block_rows"], first, sums)


def is_word(value: Any) -> bool:
    """Whether every record that has ``value`` as an attribute, or as its trace id, is found by it.

    >>> is_word("4bf92f3577b34da6"), is_word("short"), is_word(1234567890), is_word('a "quoted" word')
    (True, False, False, False)
    """
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) < WORD_LENGTH_MIN:
        return False
    return orjson.dumps(value).decode() == f'"{value}"'


def _words(rows: pa.Table) -> tuple[Words, Words]:
    """The hashes of all words, and the block of each."""
    hashes: list[Words] = []
    blocks: list[Words] = []
    row = 0
    for batch in rows.select(["attributes", "trace_id"]).to_batches():
        numbers = (np.arange(row, row + batch.num_rows) // BLOCK_ROWS).astype(np.uint64)
        row += batch.num_rows
        offsets, text = _buffers(batch["attributes"].fill_null(""))
        quotes = np.flatnonzero(text[offsets[0] : offsets[-1]] == _QUOTE) + int(offsets[0])
        counts = np.diff(np.searchsorted(quotes, offsets))
        # Where a quote may be escaped, or is no JSON's, it is not known what stands between quotes.
        plain = counts % 2 == 0
        escapes = np.flatnonzero(text[offsets[0] : offsets[-1]] == _BACKSLASH) + int(offsets[0])
        plain[np.searchsorted(offsets, escapes, side="right") - 1] = False
        if not plain.all():
            quotes, counts = quotes[np.repeat(plain, counts)], np.where(plain, counts, 0)
        begins, lengths = quotes[0::2] + 1, quotes[1::2] - quotes[0::2] - 1
        long = lengths >= WORD_LENGTH_MIN
        behind = np.minimum(begins[long] + lengths[long] + 1, len(text) - 1)
        long[long] = text[behind] != _COLON  # that was the name of an attribute
        hashes.append(_hashes_at(text, begins[long], lengths[long]))
        blocks.append(np.repeat(numbers, counts // 2)[long])
        traced = batch["trace_id"].is_valid().to_numpy(zero_copy_only=False)
        hashes.append(_hashes(batch["trace_id"].drop_null()))
        blocks.append(numbers[traced])
        escaped = np.unique(numbers[~plain])
        hashes.append(np.full(len(escaped), _hash(_ESCAPED), dtype=np.uint64))
        blocks.append(escaped)
    nothing = np.array([], dtype=np.uint64)
    return np.concatenate([nothing, *hashes]), np.concatenate([nothing, *blocks])


@functools.lru_cache(256)  # a search asks the index of each segment for the same few
def _hash(word: str) -> int:
    return int(_hashes(pa.array([word], pa.string()))[0])


def _hashes(words: pa.Array) -> Words:
    offsets, text = _buffers(words)
    return _hashes_at(text, offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64))


def _hashes_at(text: Bytes, begins: Integers, lengths: Integers) -> Words:
    """A 64-bit hash of each word of ``text``: all words of one length at once, eight bytes at a time."""
    found = np.zeros(len(begins), dtype=np.uint64)
    # The eight bytes from each place on, as one number: a gather of these is a fifth of one of bytes.
    eights = np.ndarray(len(text) + 1, "<u8", np.concatenate([text, np.zeros(8, np.uint8)]), strides=(1,))
    for length in np.flatnonzero(np.bincount(lengths)).tolist():
        chosen = np.flatnonzero(lengths == length)
        width = min(length, _WORD_LENGTH_MAX)
        hash = np.full(len(chosen), length, dtype=np.uint64)
        for start in range(0, max(width, 1), 8):
            piece = eights[begins[chosen] + start] & np.uint64(256 ** min(8, width - start) - 1)
            hash = (hash ^ piece) * np.uint64(0x9E3779B97F4A7C15)
            hash ^= hash >> np.uint64(29)
            hash *= np.uint64(0xBF58476D1CE4E5B9)
            hash ^= hash >> np.uint64(32)
        found[chosen] = hash
    return found


def _buffers(texts: pa.Array) -> tuple[npt.NDArray[np.int32], Bytes]:
    """Where each of ``texts`` begins, and the last ends, in the bytes of all."""
    return text_offsets(texts), np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)
