"""Directed scenarios, for what random seeds reach too rarely. Each raises when a rule is broken.

They import what they drive when they run, so that they drive the copy with the planted bug.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Scenario = Callable[[], None]
SHARD = "s"


def _entry(start: int, sequence: int, epoch: int = 1, producer: str = "p", producer_epoch: int = 0) -> Any:
    from ringlog.replication import Entry

    return Entry.make(epoch, start, start + 1, producer, producer_epoch, sequence, b"x")


def _members() -> tuple[Any, ...]:
    from ringlog.replication import Member

    return tuple(Member(name, name) for name in "xyz")


def _leader(epoch: int = 3, entries: tuple[Any, ...] = ()) -> Any:
    from ringlog.replication import NO_PRODUCERS, Leader

    return Leader(SHARD, epoch, _members(), 2, "x", 0, entries, NO_PRODUCERS, 1000)


def _submit(sequence: int, since: int = 0) -> Any:
    from ringlog.replication import Submit

    return Submit(SHARD, 3, "p", 0, sequence, since, 1, "quorum", b"x")


def _replica(**state: Any) -> Any:
    from ringlog.replication import Replica, ReplicaState

    return Replica(ReplicaState(SHARD, "x", **{"promised": 1, "log_epoch": 1, "boundaries": ((1, 0),), **state}))


def _takeover(accept_loss: bool = False, decision: int = 0, retire: bool = False, **found: Any) -> Any:
    """Of epoch 3 by x, which has claimed it over x, y and z."""
    from ringlog.replication import ShardState, Standing, Takeover

    state = ShardState(SHARD, **{"epoch": 2, "state": "open", "claimant": "y", "nonce": "theirs", "members": _members(), "quorum": 2, **found})  # fmt: skip
    how: dict[str, Any] = {"accept_loss": accept_loss, "decision": decision, "retire": retire}
    one = Takeover(SHARD, "x", "x", state, 7, _members(), 2, "mine", b"gap", **how)
    (claim,) = one.start(0.0).send
    one.handle(Standing(SHARD, "mine", claim.state, 8), 0.0)
    return one


def _sealed(id: str, end: int, log_epoch: int = 2, trimmed: int = 0) -> Any:
    from ringlog.replication import Sealed

    return Sealed(SHARD, id, 3, log_epoch, ((log_epoch, 0),), trimmed, end)


def the_best_log_is_of_the_highest_epoch() -> None:
    from ringlog.replication.quorum import best

    assert best([_sealed("x", 90, 1), _sealed("y", 20, 2)]).id == "y"


def logs_agree_as_far_as_their_newest_common_epoch() -> None:
    from ringlog.replication.quorum import agreement, trimmed_boundaries

    assert agreement([(1, 0), (3, 50)], 60, [(1, 0), (2, 40)], 70) == 40
    assert agreement([(1, 0)], 60, [(2, 0)], 70) is None
    assert trimmed_boundaries([(1, 0), (2, 40), (3, 60)], 50) == ((2, 40), (3, 60))


def an_append_beyond_the_end_is_answered_with_the_end() -> None:
    from ringlog.replication import Append, Appended

    output = _replica().handle(Append(SHARD, "x", 1, 5, (_entry(5, 5),), 0, 0))
    assert (output.store, output.send) == ((), (Appended(SHARD, "x", 1, 0),))


def a_late_join_changes_nothing() -> None:
    from ringlog.replication import NO_PRODUCERS, Append, Join

    one = _replica(promised=0, log_epoch=0, boundaries=())
    join = Join(SHARD, "x", 1, 0, 0, ((1, 0),), (), NO_PRODUCERS)
    one.handle(join)
    one.handle(Append(SHARD, "x", 1, 0, (_entry(0, 0),), 0, 0))
    assert one.handle(join).send[0].end == 1
    assert one.end == 1


def a_late_fetch_is_dropped() -> None:
    from ringlog.replication import Fetch, Trim

    one = _replica(entries=(_entry(0, 0), _entry(1, 1)))
    one.handle(Trim(SHARD, "x", 1, 1))
    assert not one.handle(Fetch(SHARD, "x", 1, 0))


def answers_to_an_old_epoch_commit_nothing() -> None:
    from ringlog.replication import Appended, Confirmed

    one = _leader()
    one.append("caller", _submit(0), 0.0)
    one.handle(Appended(SHARD, "x", 3, 1), 0.0)
    assert one.handle(Appended(SHARD, "y", 2, 1), 0.0).reply == ()
    assert one.committed == 0
    one.read("reader", 0.0)
    one.handle(Confirmed(SHARD, "x", 3, 1), 0.0)
    assert one.handle(Confirmed(SHARD, "y", 2, 1), 0.0).reply == ()


def a_refusal_waits_for_a_quorum() -> None:
    one = _leader()
    assert one.append("caller", _submit(7), 0.0).reply == ()


def a_read_waits_for_a_round_that_begins_with_it() -> None:
    from ringlog.replication import Confirmed

    one = _leader()
    one.read("first", 0.0)
    for id in "xy":
        one.handle(Confirmed(SHARD, id, 3, 1), 0.0)
    assert one.read("second", 0.0).reply == ()
    assert one.handle(Confirmed(SHARD, "x", 3, 1), 0.0).reply == ()
    assert one.handle(Confirmed(SHARD, "y", 3, 1), 0.0).reply == ()


def a_leader_that_is_deposed_tells_its_callers() -> None:
    from ringlog.replication import Fenced

    one = _leader()
    one.append("caller", _submit(0), 0.0)
    assert [caller for caller, _ in one.handle(Fenced(SHARD, "y", 3, 9), 0.0).reply] == ["caller"]


def a_table_that_is_ahead_of_a_leader_ends_it() -> None:
    one = _leader()
    one.trim(5)
    assert one.deposed_by is not None


def a_fence_ends_a_leader_wherever_the_table_ends() -> None:
    from ringlog.replication import Entry, Participant, ReplicaState

    part = Participant("x", ReplicaState(SHARD, "x"), 1000)
    part.leader = _leader(entries=(Entry.make(1, 0, 4, "p", 0, 0, b"x"),))
    part.stored(2, fence=9)
    assert part.leader is None


def a_table_that_is_closed_is_left_alone() -> None:
    from ringlog.replication import outcome, to_archive

    entries = (_entry(0, 0), _entry(1, 1))
    assert to_archive(SHARD, 3, entries, 0, 2, stored=0, fence=4, bytes_max=100) == ()
    assert to_archive(SHARD, 4, entries, 0, 2, stored=1, fence=4, bytes_max=100) == entries[1:]
    assert outcome(SHARD, 0, 2, stored=0, fenced=True, accepted=False) == "overtaken"
    assert outcome(SHARD, 0, 2, stored=2, fenced=False, accepted=False) == "done"


def answers_to_another_try_are_none() -> None:
    from ringlog.replication import Stored

    one = _takeover()
    for id in "xyz":
        one.handle(_sealed(id, 0), 0.0)
    assert one.handle(Stored(SHARD, "an earlier try", 0), 0.0).send == ()
    assert one.phase == "table"


def a_table_that_is_ahead_of_a_takeover_means_that_it_is_late() -> None:
    from ringlog.replication import ReadState, ShardState, Standing, Stored

    one = _takeover()
    for id in "xyz":
        one.handle(_sealed(id, 5), 0.0)
    (question,) = one.handle(Stored(SHARD, "mine", 9), 0.0).send
    assert isinstance(question, ReadState)
    one.handle(Standing(SHARD, "mine", ShardState(SHARD, 9, "open", "z", "later", _members(), 2), 30), 0.0)
    assert one.phase == "lost"


def a_table_that_is_ahead_of_a_first_takeover_means_that_it_is_late() -> None:
    """Found by seed 26,207: it had waited for the table since epoch 1, and read it when later epochs had archived."""
    from ringlog.replication import ReadState, ShardState, Standing, Stored, Takeover

    one = Takeover(SHARD, "x", "x", None, 0, _members(), 2, "mine", b"gap")
    (claim,) = one.start(0.0).send
    one.handle(Standing(SHARD, "mine", claim.state, 1), 0.0)
    assert one.handle(Stored(SHARD, "mine", 9), 0.0).send == (ReadState(SHARD, "mine"),)
    one.handle(Standing(SHARD, "mine", ShardState(SHARD, 9, "open", "z", "later", _members(), 2), 30), 0.0)
    assert one.phase == "lost"


def a_takeover_without_the_table_trusts_who_trimmed_most() -> None:
    from ringlog.replication import Fetch
    from ringlog.replication.takeover import TABLE_S

    takeover = _takeover()
    for id, trimmed in (("x", 20), ("y", 30), ("z", 10)):
        takeover.handle(_sealed(id, 90, trimmed=trimmed), 0.0)
    assert takeover.phase == "table"
    (fetch,) = takeover.tick(TABLE_S).send
    assert isinstance(fetch, Fetch)
    assert fetch.start == 30


def _joining(**found: Any) -> tuple[Any, Any]:
    from ringlog.replication import NO_PRODUCERS, Entries, Stored

    one = _takeover(**found)
    for id in "xyz":
        one.handle(_sealed(id, 1), 0.0)
    one.handle(Stored(SHARD, "mine", 0), 0.0)
    return one, one.handle(Entries(SHARD, one._best.id, 3, 0, 1, (_entry(0, 0, 2),), NO_PRODUCERS), 0.0)


def an_epoch_begins_with_a_boundary() -> None:
    _, output = _joining()
    assert {join.boundaries for join in output.send} == {((2, 0), (3, 1))}


def an_open_is_not_walked_away_from() -> None:
    from ringlog.replication import Joined, Standing, Unanswered

    one, _ = _joining()
    for id in "xyz":
        output = one.handle(Joined(SHARD, id, 3, 1), 0.0)
    (opening,) = output.send
    one.handle(Unanswered(SHARD, "mine"), 0.0)
    assert one.tick(10.0).send, "it asks what stands there"
    claimed = one._claim().state
    assert one.handle(Standing(SHARD, "mine", claimed, 8), 10.0).send == (opening,)


def an_open_does_not_give_way_to_another_try() -> None:
    from ringlog.replication import Outpaced, Participant, ReplicaState

    part = Participant("x", ReplicaState(SHARD, "x"), 1000)
    part.takeover = _takeover()
    part.takeover.phase = "open"
    output = part.take_over("caller", None, 0, _members(), 2, "another", 0.0, b"gap")
    assert output.reply == (("caller", Outpaced(3)),)


def a_higher_epoch_ends_what_runs_beside_the_replica() -> None:
    from ringlog.replication import Participant, ReplicaState, Seal

    part = Participant("x", ReplicaState(SHARD, "x"), 1000)
    part.takeover = _takeover()
    part.leader = _leader()
    part.request(Seal(SHARD, "x", 9))
    assert (part.leader, part.takeover) == (None, None)


def an_accepted_loss_is_decided_first_and_closes_the_table() -> None:
    from ringlog.replication import NO_PRODUCERS, CompareAndSet, Entries, Joined, ReadStored, Standing, Stored

    one = _takeover(accept_loss=True)
    one.handle(_sealed("x", 1), 0.0)
    (accepting,) = one.tick(100.0).send
    assert isinstance(accepting, CompareAndSet)
    assert [member.id for member in accepting.state.members] == ["x"]
    assert (accepting.state.quorum, accepting.state.state, accepting.state.accepted) == (1, "claimed", 3)
    assert one.handle(Standing(SHARD, "mine", accepting.state, 9), 100.0).send == (ReadStored(SHARD, "mine", 3),)
    one.handle(Stored(SHARD, "mine", 0), 100.0)
    one.handle(Entries(SHARD, "x", 3, 0, 1, (_entry(0, 0, 2),), NO_PRODUCERS), 100.0)
    for id in "xyz":
        output = one.handle(Joined(SHARD, id, 3, 2), 100.0)
    assert output.send[0].state.gaps == ((3, 1),)


def who_was_forgotten_is_told_so() -> None:
    from ringlog.replication import Evicted, ProducerTable

    table = ProducerTable(2)
    written = [("x", 0), ("b", 0), ("x", 1), ("c", 0), ("d", 0)]
    for start, (producer, producer_epoch) in enumerate(written):
        table.apply(_entry(start, 0, producer=producer, producer_epoch=producer_epoch))
    assert table.check("x", 1, 0, since=2) == Evicted()
    assert table.advanced(()).check("x", 1, 0, since=2) == Evicted()


def who_counts_from_beyond_the_end_is_not_taken_for_new() -> None:
    """After an accepted loss: below ``since``, a producer that is forgotten later could be taken for new once more."""
    one = _leader()
    output = one.append("caller", _submit(0, 100), 0.0)
    assert (output.reply, one.end) == ((), 0), "it asks for its epoch before it refuses"


def an_older_epoch_of_a_producer_is_over() -> None:
    from ringlog.replication import ProducerTable, Superseded

    table = ProducerTable()
    table.apply(_entry(0, 0, producer_epoch=4))
    assert table.check("p", 3, 1, since=0) == Superseded(4)


def a_leader_outside_of_the_members_hands_over() -> None:
    from ringlog.control import Reconciler, TakeOver

    actors = ("a", "b", "c", "d")
    one = Reconciler(("s",), actors, 3, 2)
    statuses: dict[str, Any] = {
        name: {"leading": {}, "keeping": {"s": {"id": name, "promised": 1, "log_epoch": 1}}} for name in actors
    }
    statuses["d"]["leading"]["s"] = {"epoch": 1, "members": {"d": {"id": "d"}}}
    one.decide(statuses, 0.0)
    assert one.decide(statuses, 100.0) == [TakeOver("s", "a", ("a", "b", "c"))]


def a_failure_of_a_shard_that_is_well_again_is_no_error() -> None:
    from ringlog.control import Reconciler

    Reconciler(("s",), ("a", "b", "c"), 3, 2).failed("s", 0.0)


def _retiring(end: int, stored: int, table_s: float = 0.0, **found: Any) -> Any:
    """What a takeover that is to retire the shard does once it hears that the table holds ``stored`` of ``end``."""
    from ringlog.replication import Stored

    one = _takeover(decision=7, retire=True, **found)
    for id in "xyz":
        one.handle(_sealed(id, end), 0.0)
    one.tick(table_s)
    assert one.phase == "table", "it waits for the table, however long that is away"
    return one, one.handle(Stored(SHARD, "mine", stored), 0.0).send[0]


def a_shard_is_retired_only_when_the_table_holds_all_of_it() -> None:
    from ringlog.replication import CompareAndSet

    _, change = _retiring(1, 1)
    assert isinstance(change, CompareAndSet)
    assert (change.state.state, change.state.members, change.state.retired, change.state.ended) == ("retired", (), 7, 1)
    assert not isinstance(_retiring(2, 1)[1], CompareAndSet)
    assert not isinstance(_retiring(1, 1, accepted=2)[1], CompareAndSet), "a gap is told first"


def a_retirement_waits_for_the_table() -> None:
    _retiring(1, 1, table_s=100.0)


def a_retirement_is_not_walked_away_from() -> None:
    from ringlog.replication import Outpaced, Participant, ReplicaState, Standing, Unanswered

    one, change = _retiring(1, 1)
    one.handle(Unanswered(SHARD, "mine"), 0.0)
    assert one.tick(10.0).send, "it asks what stands there"
    assert one.handle(Standing(SHARD, "mine", one._claim().state, 8), 10.0).send == (change,)
    part = Participant("x", ReplicaState(SHARD, "x"), 1000)
    part.takeover = one
    output = part.take_over("caller", None, 0, _members(), 2, "another", 0.0, b"gap")
    assert output.reply == (("caller", Outpaced(3)),)


def _retired(state: str = "retired", **how: Any) -> Any:
    """A takeover of a shard that decision 7 retired when its log ended at 20."""
    from ringlog.replication import ShardState, Takeover

    members = () if state == "retired" else _members()
    found = ShardState(SHARD, 5, state, "y", "theirs", members, 2, retired=7, ended=20)  # type: ignore[arg-type]
    return Takeover(SHARD, "x", "x", found, 9, _members(), 2, "mine", b"gap", **how)


def a_retired_shard_moves_by_a_later_decision_alone() -> None:
    for decision in (0, 6, 7):
        late = _retired(decision=decision)
        assert (late.start(0.0).send, late.phase) == ((), "lost")
    assert _retired(decision=8).start(0.0).send


def a_shard_that_was_taken_up_again_is_not_retired_by_the_old_decision() -> None:
    late = _retired("open", decision=7, retire=True)
    assert (late.start(0.0).send, late.phase) == ((), "lost")
    assert _retired("open", decision=9, retire=True).start(0.0).send


def a_shard_that_is_taken_up_again_goes_on_where_it_ended_and_knows_nobody() -> None:
    from ringlog.replication import Evicted, ProducerTable, Standing, Stored, Violation

    def claimed() -> Any:
        one = _retired(decision=8)
        (claim,) = one.start(0.0).send
        one.handle(Standing(SHARD, "mine", claim.state, 10), 0.0)
        return one

    join, *_ = claimed().handle(Stored(SHARD, "mine", 20), 0.0).send
    assert (join.trimmed, join.start, join.boundaries) == (20, 20, ((6, 20),))
    assert ProducerTable.from_plain(join.producers).check("p", 0, 0, since=0) == Evicted()
    try:
        claimed().handle(Stored(SHARD, "mine", 10), 0.0)
    except Violation:
        return
    raise AssertionError("the table went back")


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for name, scenario in list(globals().items())
    if callable(scenario) and getattr(scenario, "__module__", "") == __name__ and not name.startswith("_")
}
"""By name."""
