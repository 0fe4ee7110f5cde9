from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringlog.client.files import expand, read_lines, read_records, service_of, size_bytes
from ringlog.errors import ConfigurationError, Unavailable

NOW = 1_790_000_000_000_000_000


def lines_of(path: Path | str, **options: object) -> list[str]:
    return [line for block in read_lines(str(path), **options) for line in block.lines.to_pylist()]  # type: ignore[arg-type]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"a\n\n\nb\n", ["a", "", "", "b"]),
        (b"a\r\r\nb\rc\n", ["a\r", "b\rc"]),
        (b"\n", [""]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b"caf\xc3\xa9\n\xff\xfe\n", ["café", "\\xff\\xfe"]),
        ("a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),
        (b"  indented \t\n", ["  indented \t"]),
    ],
)
def test_lines_end_at_lf_and_lose_one_cr(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    assert lines_of(written(tmp_path / "x.log", data)) == lines


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8")), max_size=20),
    st.integers(1, 50),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_blocks_may_cut_anywhere(tmp_path: Path, lines: list[str], block_bytes: int, ended: bool) -> None:
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    path = written(tmp_path / "x.log", text.removeprefix("\ufeff").encode())
    whole = text.removeprefix("\ufeff").split("\n")
    expected = [line.removesuffix("\r") for line in (whole[:-1] if whole[-1] == "" else whole)]
    # A first block that is shorter than the byte-order mark cannot show one.
    assert lines_of(path, block_bytes=max(3, block_bytes)) == expected


@pytest.mark.parametrize("name", ["x.log", "x.anything"])
def test_compression_is_seen_by_the_first_bytes(tmp_path: Path, name: str) -> None:
    lines = [f"line {number}" for number in range(5000)]
    data = "\n".join(lines).encode()
    assert lines_of(written(tmp_path / name, gzip.compress(data[:9000]) + gzip.compress(data[9000:]))) == lines
    one = zstandard.ZstdCompressor()
    assert lines_of(written(tmp_path / name, one.compress(data[:9000]) + one.compress(data[9000:]))) == lines


def test_a_truncated_gzip_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "x.gz", gzip.compress(b"a\n" * 10_000)[:-20])
    with pytest.raises(Unavailable, match=r"x\.gz"):
        lines_of(path)


def test_a_line_that_is_too_long_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "x.log", b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 200 + b"\nc\n")
    blocks = list(read_lines(str(path), block_bytes=64, record_bytes_max=100))
    assert [line for block in blocks for line in block.lines.to_pylist()] == ["a", "b", "c"]
    problems = {number: why for block in blocks for number, why in block.problems.items()}
    assert sorted(problems) == [2, 4]
    assert "5000 bytes" in problems[2]


def test_a_huge_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "x.log", b"x" * 3_000_000)
    blocks = list(read_lines(str(path), block_bytes=1000, record_bytes_max=100))
    assert sum(len(block.lines) for block in blocks) == 0
    assert [why for block in blocks for why in block.problems.values()] == [
        "it has 3000000 bytes: 100 at most; cut it, or raise record_bytes_max"
    ]


TRACE = """2026-01-01 00:00:00 ERROR failed
Traceback (most recent call last):
  File "x.py", line 1, in <module>
    raise ValueError("no")
ValueError: no
2026-01-01 00:00:01 INFO next
java.lang.RuntimeException: x
\tat a.b(C.java:1)
Caused by: java.io.IOException: y
\tat d.e(F.java:2)
last"""


@pytest.mark.parametrize("block_bytes", [7, 64, 10**6])
def test_multiline_joins_what_continues_a_record(tmp_path: Path, block_bytes: int) -> None:
    path = written(tmp_path / "x.log", TRACE.encode())
    found = lines_of(path, multiline=True, block_bytes=block_bytes)
    assert "\n".join(found) == TRACE
    assert [record.split("\n")[0] for record in found] == [
        "2026-01-01 00:00:00 ERROR failed",
        "2026-01-01 00:00:01 INFO next",
        "java.lang.RuntimeException: x",
        "last",
    ]


def test_files_folders_globs_and_urls(tmp_path: Path) -> None:
    for name in ("a.log", "b.log", "c.txt", ".hidden"):
        written(tmp_path / name, b"x\n")
    names = [Path(path).name for path in expand([str(tmp_path)])]
    assert names == ["a.log", "b.log", "c.txt"]
    assert expand([f"{tmp_path}/*.log", f"{tmp_path}/a.log"]) == [f"{tmp_path}/a.log", f"{tmp_path}/b.log"]
    memory = fsspec.filesystem("memory")
    memory.pipe("/logs/a.log", b"from memory\n")
    (found,) = expand(["memory://logs/*.log"])
    assert lines_of(found) == ["from memory"]
    assert size_bytes(found) == 12
    for missing in (str(tmp_path / "none.log"), f"{tmp_path}/*.none"):
        with pytest.raises(ConfigurationError, match="names no file"):
            expand([missing])


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("Apache.log", "Apache"),
        ("/x/app.log.gz", "app"),
        ("server.log.1", "server"),
        ("s.log-20260101", "s"),
        ("noext", "noext"),
    ],
)
def test_a_service_is_the_files_name(path: str, service: str) -> None:
    assert service_of(path) == service


def test_lines_become_whole_records(tmp_path: Path) -> None:
    path = written(tmp_path / "train.log", b"2026-01-02 03:04:05,678 ERROR boom\r\nno idea\r\n")
    (block, rest) = read_records(str(path), now_ns=NOW)
    first, second = block.batch.to_pylist()
    assert rest.batch.num_rows == 0
    assert (first["body"], first["service"], first["severity_number"]) == (
        "2026-01-02 03:04:05,678 ERROR boom",
        "train",
        17,
    )
    assert first["time_unix_nano"] == 1_767_323_045_678_000_000
    assert second["body"] == "no idea"
    assert abs(second["time_unix_nano"] / 1e9 - path.stat().st_mtime) < 1, "the file's last change"
    assert first["attributes"] == '{"log.file.name":"train.log"}'
    assert block.bytes_read == len(path.read_bytes())


def test_progress_counts_the_files_own_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "x", b"ab\ncd\n")
    assert [block.bytes_read for block in read_lines(str(path), block_bytes=3)] == [3, 6, 6]
