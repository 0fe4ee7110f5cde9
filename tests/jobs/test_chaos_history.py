"""The checker of the chaos job: it says nothing of a true history, and names each thing that must not be."""

from __future__ import annotations

from dataclasses import replace

import orjson

from chaos_history import Fault, Read, Row, Submit, check, gaps_ms, outages, reads_of, submits_of

A = Submit("a", 0, 2, begin=10, end=20, outcome="acknowledged", shard="s", start=0)
B = Submit("a", 2, 2, begin=30, end=40, outcome="acknowledged", shard="s", start=2)
ROWS = [Row("a", number, "s", number) for number in range(4)]


def wrong(submits: list[Submit], reads: list[Read], rows: list[Row]) -> dict[str, int]:
    return {name: count for name, count in check(submits, reads, rows).wrong().items() if count}


def test_a_true_history() -> None:
    unknown = Submit("b", 0, 1, begin=5)
    refused = Submit("b", 1, 1, begin=5, end=6, outcome="not stored")
    reads = [Read(25, (), {"a": [(0, 2)]}), Read(50, ("s",), {}), Read(50, (), {"a": [(0, 4)]})]
    verdict = check([A, B, unknown, refused], reads, ROWS)
    assert not any(verdict.wrong().values())
    assert (verdict.acknowledged, verdict.unknown, verdict.not_stored, verdict.reads) == (4, 1, 1, 3)
    assert wrong([A, B, unknown], [], [*ROWS, Row("b", 0, "s", 4)]) == {}, "unknown may be stored"


def test_a_lost_record() -> None:
    assert wrong([A, B], [], ROWS[:3]) == {"lost": 1}
    assert wrong([A, B], [], []) == {"lost": 4}


def test_a_doubled_record() -> None:
    assert wrong([A, B], [], [*ROWS, Row("a", 1, "s", 4)]) == {"doubled": 1}
    assert wrong([A, B], [], [*ROWS, ROWS[1]]) == {"doubled": 2}, "by its name and by its position"
    unknown = Submit("b", 0, 1, begin=5)
    assert wrong([A, B, unknown], [], [*ROWS, Row("b", 0, "s", 3)]) == {"doubled": 1}, "two at one position"
    assert wrong([A, B], [Read(50, (), {"a": [(0, 4)]}, doubled=1)], ROWS) == {"doubled": 1}


def test_a_record_that_is_not_where_its_client_was_told() -> None:
    assert wrong([replace(A, start=1), B], [], ROWS) == {"misordered": 2}
    assert wrong([replace(A, shard="t"), B], [], ROWS) == {"misordered": 2}


def test_an_order_that_cannot_be() -> None:
    first, second = replace(A, start=2), replace(B, start=0)
    rows = [Row("a", 2, "s", 0), Row("a", 3, "s", 1), Row("a", 0, "s", 2), Row("a", 1, "s", 3)]
    assert wrong([first, second], [], rows) == {"misordered": 2}
    assert wrong([replace(first, end=35), second], [], rows) == {}, "both were under way"
    other = Submit("b", 0, 1, begin=50)
    late = [Row("b", 0, "s", 0)] + [Row("a", number, "s", number + 1) for number in range(4)]
    assert wrong([replace(A, start=1), replace(B, start=3), other], [], late) == {"misordered": 1}, "of any client"


def test_a_submit_that_was_torn() -> None:
    torn = Submit("b", 0, 2, begin=5)
    assert wrong([A, B, torn], [], [*ROWS, Row("b", 0, "s", 4)]) == {"misordered": 1}
    assert wrong([A, B, torn], [], [*ROWS, Row("b", 1, "s", 4), Row("b", 0, "s", 5)]) == {"misordered": 2}


def test_a_record_of_which_the_client_was_told_that_it_is_not_stored() -> None:
    assert wrong([A, replace(B, outcome="not stored")], [], ROWS) == {"returned": 2}


def test_a_stored_answer_that_came_too_early() -> None:
    assert wrong([replace(A, stored=1), B], [], ROWS) == {"early": 2}
    assert wrong([replace(A, stored=2), B], [], ROWS) == {}


def test_offsets_that_are_not_dense() -> None:
    assert wrong([A, replace(B, start=3)], [], [*ROWS[:2], Row("a", 2, "s", 3), Row("a", 3, "s", 4)]) == {"holes": 1}


def test_a_record_that_nobody_submitted() -> None:
    assert wrong([A, B], [], [*ROWS, Row("c", 0, "s", 4)]) == {"strange": 1}


def test_a_read_that_misses_what_was_acknowledged_before_it_began() -> None:
    assert wrong([A, B], [Read(41, (), {"a": [(0, 3)]})], ROWS) == {"unseen": 2}
    assert wrong([A, B], [Read(40, (), {"a": [(0, 2)]})], ROWS) == {}, "it had not been answered yet"
    assert wrong([A, B], [Read(41, (), {})], ROWS) == {"unseen": 4}
    assert wrong([A, B], [Read(41, (), {}, since=30)], ROWS) == {"unseen": 2}, "it asked for no more"
    assert wrong([A, B], [Read(41, ("s",), {})], ROWS) == {}, "it said so"
    assert wrong([A, B], [Read(41, (), {"a": [(0, 1), (2, 4)]})], ROWS) == {"unseen": 2}, "one of its two"


def test_a_gap_is_the_longest_silence_until_the_next_fault() -> None:
    def at(*ends: int, shard: str = "s") -> list[Submit]:
        return [Submit("a", end, 1, (end - 1) * 10**6, end * 10**6, "acknowledged", shard) for end in ends]

    def kill(at_ms: int, *shards: str) -> Fault:
        return Fault("kill", at_ms * 10**6, "x", shards)

    answers = [*at(60, 5, 20, 100, 21), *at(50, shard="t")]
    assert gaps_ms([kill(10, "s")], answers) == {"kill": {"p50": 40.0, "p99": 40.0, "max": 40.0, "n": 1}}
    ended_by_the_next = [kill(65, "t"), kill(10, "s")]
    assert gaps_ms(ended_by_the_next, answers)["kill"] == {"p50": 40.0, "p99": 40.0, "max": 40.0, "n": 1}
    assert gaps_ms([kill(10, "s"), kill(20, "t")], answers)["kill"]["p50"] == 10.0, "later silences are the next one's"
    assert gaps_ms([kill(10, "t"), Fault("stop", 70 * 10**6, "y", ("t",))], answers) == {
        "kill": {"p50": 40.0, "p99": 40.0, "max": 40.0, "n": 1}
    }, "nothing came after the second"


def test_outages_name_the_faults_within_them() -> None:
    def at(second: float) -> int:
        return int(second * 1e9)

    answered = [Submit("a", number, 1, at(end - 1), at(end), "acknowledged", "s") for number, end in enumerate((20, 5))]
    elsewhere = Submit("a", 2, 1, at(1), at(11), "acknowledged", "t")
    faults = [
        Fault("stop", at(1), "x", seconds=2.5),
        Fault("stop", at(2), "y", seconds=2.5),
        Fault("kill", at(6), "z"),
        Fault("kill", at(21), "late"),
    ]
    found = outages(faults, [*answered, elsewhere], at(0), at(21.5))
    assert found == [
        {
            "shard": "s",
            "at_s": 5.0,
            "seconds": 15.0,
            "faults": ["stop y at 2.0 s, away 2.5 s", "kill z at 6.0 s, away 0 s"],
        },
        {
            "shard": "t",
            "at_s": 0.0,
            "seconds": 11.0,
            "faults": ["stop x at 1.0 s, away 2.5 s", "stop y at 2.0 s, away 2.5 s", "kill z at 6.0 s, away 0 s"],
        },
        {"shard": "t", "at_s": 11.0, "seconds": 10.5, "faults": ["kill late at 21.0 s, away 0 s"]},
    ]
    assert outages(faults, [], at(0), at(8)) == []


def test_a_history_reads_back_and_what_a_death_cut_off_is_unknown() -> None:
    lines = [
        {"op": "submit", "client": "a", "first": 0, "count": 2, "at": 10},
        {"op": "submit", "client": "a", "first": 2, "count": 1, "at": 11},
        {"op": "answer", "first": 0, "at": 20, "outcome": "acknowledged", "shard": "s", "start": 0},
    ]
    written = [orjson.dumps(line) + b"\n" for line in lines]
    torn = b'{"op":"answer","first":2,"at":2'
    assert list(submits_of([*written, torn])) == [A, Submit("a", 2, 1, begin=11)]
    read = {"op": "read", "begin": 5, "since": 2, "missing": ["t"], "seen": {"a": [[0, 2]]}, "doubled": 0}
    refused = {"op": "no read", "begin": 7, "error": "the store is away"}
    found = list(reads_of([orjson.dumps(line) + b"\n" for line in (read, refused)]))
    assert found == [Read(5, ("t",), {"a": [(0, 2)]}, since=2)]
