from __future__ import annotations

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlog.cli.bench import corpus
from ringlog.schema import with_position
from ringlog.storage import Objects, index, write_segments
from ringlog.storage.index import BLOCK_ROWS, METADATA_KEY, Index, build, is_word, open_index
from table_rows import rows


class File:
    """The index of ``table`` as it would lie in a file, behind something else; ``read`` counts the bytes."""

    def __init__(self, table: pa.Table) -> None:
        built = build(table)
        self.data = b"PAR1" + built.data
        self.metadata = {METADATA_KEY: built.where(4)}
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return self.data[offset : offset + length]

    def open(self) -> Index:
        found = open_index(self.metadata, self.read)
        assert found is not None
        return found


def table(attributes: list[str | None], **columns: object) -> pa.Table:
    return pa.Table.from_batches([rows("s", 0, len(attributes), attributes=attributes, **columns)])


@pytest.fixture(scope="module")
def records() -> pa.Table:
    return pa.Table.from_batches([with_position(batch, "s", 0) for batch in corpus.batches(60_000)])


def test_every_id_is_found_in_its_block_and_hardly_any_other(records: pa.Table) -> None:
    file = File(records)
    found = file.open()
    ids = [text.split('"')[3] for text in records["attributes"].to_pylist()]
    extra = 0
    for row in range(0, records.num_rows, 97):
        blocks = found.blocks([ids[row]], file.read)
        assert blocks is not None
        assert row // BLOCK_ROWS in blocks
        extra += len(blocks) - 1
    assert extra < 10
    assert sum(len(found.blocks([f"{number:016x}"], file.read) or []) for number in range(1000)) < 20


def test_a_search_reads_little_of_it(records: pa.Table) -> None:
    file = File(records)
    found = file.open()
    file.bytes_read = 0
    found.blocks(["0123456789abcdef"], file.read)
    assert file.bytes_read < len(file.data) / 100


def test_words_are_strings_and_trace_ids_of_some_length() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    file = File(
        table(['{"a":"long enough","n":1234567890}', None, '{"b":{"c":["0123456789"]}}'], trace_id=[None, trace, None])
    )
    found = file.open()
    for word in ("long enough", trace, "0123456789"):
        assert is_word(word)
        assert found.blocks([word], file.read) == [0]
    assert found.blocks(["not in there"], file.read) == []
    assert found.blocks(["long enough", "not in there"], file.read) == []


def test_names_of_attributes_are_no_words() -> None:
    file = File(table(['{"request_id":"0123456789","a long name":{"another name":"abcdefghij"}}', '"a bare text"']))
    found = file.open()
    for value in ("0123456789", "abcdefghij", "a bare text"):
        assert found.blocks([value], file.read) == [0]
    for name in ("request_id", "a long name", "another name"):
        assert found.blocks([name], file.read) == []


def test_what_is_escaped_may_be_anything() -> None:
    text = [None] * BLOCK_ROWS + [r'{"id":"\u0061bcdefgh"}']
    file = File(table(text))
    assert file.open().blocks(["abcdefgh"], file.read) == [1], "this is how JSON may spell it"
    assert not is_word('with "quotes"')
    assert not is_word("with \\ backslash")


def test_what_is_no_json_may_hold_anything_and_takes_nothing_from_its_neighbours() -> None:
    file = File(table(['{"id":"0123456789"}', 'no json: " one quote', '{"id":"abcdefghij"}']).slice(1))
    found = file.open()
    assert found.blocks(["abcdefghij"], file.read) == [0]
    assert found.blocks(["one quote"], file.read) == [0]
    later = File(table([*['{"n":1}'] * BLOCK_ROWS, '{"id":"0123456789"}', *['{"n":1}'] * BLOCK_ROWS, 'odd "']))
    assert later.open().blocks(["0123456789"], later.read) == [1, 2], "only the odd one is looked at in vain"


def test_no_records_and_no_words_make_an_index_too() -> None:
    for empty in (table([]), table([None, "{}"])):
        file = File(empty)
        assert file.open().blocks(["0123456789"], file.read) == []


def test_a_flipped_bit_makes_it_say_nothing() -> None:
    file = File(table(['{"id":"0123456789"}']))
    found = file.open()
    file.data = file.data[:-1] + bytes([file.data[-1] ^ 1])
    assert found.blocks(["0123456789"], file.read) is None


def test_an_index_of_another_kind_is_none() -> None:
    file = File(table([None]))
    assert open_index(None, file.read) is None
    assert open_index({METADATA_KEY: b'{"version":99}'}, file.read) is None


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=100), min_size=1, max_size=30))
def test_a_value_of_any_text_is_found_when_it_is_a_word(values: list[str]) -> None:

    text = [orjson.dumps({"key": value}).decode() for value in values]
    file = File(table([*text]))
    found = file.open()
    for value in values:
        if is_word(value):
            assert found.blocks([value], file.read) == [0]


def test_it_lies_in_the_segment_and_nobody_else_sees_it(tmp_path: object) -> None:
    objects = Objects(str(tmp_path), {})
    batch = rows("s", 0, 3, attributes=['{"id":"0123456789"}', None, None])
    [segment] = write_segments(objects, "s", 0, [batch])
    data = objects.read(segment.path)
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    assert file.read().num_rows == 3
    found = index.open_index(file.metadata.metadata, lambda offset, length: data[offset : offset + length])
    assert found is not None
    assert found.blocks(["0123456789"], lambda offset, length: data[offset : offset + length]) == [0]
