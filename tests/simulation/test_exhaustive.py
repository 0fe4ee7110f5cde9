"""Small cases hold in every interleaving, and the search finds what is broken on purpose."""

import pytest

from ringlog.replication import NO_PRODUCERS, Append, Join, Replica, Takeover, leader, takeover
from ringlog.simulation import exhaustive
from ringlog.simulation.exhaustive import Case, Exploration

SMALL = Case(entries=1, losses=1)
ARCHIVING = Case(entries=1, losses=0, archive=True)


@pytest.mark.parametrize("case", [SMALL, ARCHIVING], ids=["a lost disk", "archiving"])
def test_every_interleaving_holds(case):
    report = Exploration(case).explore()
    assert report.complete
    assert report.violation is None, report
    assert report.states > 10_000


def test_the_command_tells_what_it_explored(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["exhaustive", "--entries", "1", "--takeovers", "0"])
    assert exhaustive.main() == 0
    assert "states, " in capsys.readouterr().out


def test_two_explorations_count_the_same():
    case = Case(entries=1, losses=0)
    assert Exploration(case).explore() == Exploration(case).explore()


def _quorum_off_by_one(patch):
    patch.setattr(leader, "committed_end", lambda ends, quorum: sorted(ends)[-quorum + 1])


def _one_seal_too_few(patch):
    patch.setattr(takeover, "seals_needed", lambda members, quorum: members - quorum)


def _appends_below_the_promise(patch):
    handle = Replica.handle

    def forgetful(self, message):
        if not isinstance(message, Append) or message.epoch != self.log_epoch:
            return handle(self, message)
        promised, self.promised = self.promised, message.epoch
        output = handle(self, message)
        self.promised = promised
        return output

    patch.setattr(Replica, "handle", forgetful)


def _promise_that_falls(patch):
    handle = Replica.handle

    def fickle(self, message):
        self.promised = min(self.promised, message.epoch)
        return handle(self, message)

    patch.setattr(Replica, "handle", fickle)


def _any_log_will_do(patch):
    patch.setattr(takeover, "best", lambda sealed: max(sealed, key=lambda log: log.log_epoch))


def _shortest_log_wins(patch):
    patch.setattr(takeover, "best", lambda sealed: min(sealed, key=lambda log: log.end))


def _late_join_cuts(patch):
    join = Replica._join

    def cutting(self, message: Join):
        self.log_epoch = 0
        return join(self, message)

    patch.setattr(Replica, "_join", cutting)


def _late_fetch_is_answered(patch):
    fetch = Replica._fetch

    def answering(self, message):
        log_epoch, self.log_epoch = self.log_epoch, 0
        output = fetch(self, message)
        self.log_epoch = log_epoch
        return output

    patch.setattr(Replica, "_fetch", answering)


def _empty_disk_votes(patch):
    patch.setattr(exhaustive, "new_id", lambda id: id)


def _archives_what_is_not_committed(patch):
    def rows(shard, epoch, entries, trimmed, committed, stored, fence, bytes_max):
        return tuple(entry for entry in entries if entry.start >= stored)

    patch.setattr(exhaustive, "to_archive", rows)


def _producers_are_lost(patch):
    took = Takeover._took_log

    def forgetful(self, message, now):
        output = took(self, message, now)
        self._producers = NO_PRODUCERS
        return output

    patch.setattr(Takeover, "_took_log", forgetful)


BUGS = [
    (_quorum_off_by_one, SMALL, "SL-2"),
    (_one_seal_too_few, SMALL, "SL-2"),
    (_appends_below_the_promise, SMALL, "SL-8"),
    (_promise_that_falls, SMALL, "SL-8"),
    (_any_log_will_do, SMALL, "SL-2"),
    (_shortest_log_wins, SMALL, "SL-2"),
    (_late_join_cuts, SMALL, "SL-2"),
    (_empty_disk_votes, SMALL, "SL-9"),
    (_archives_what_is_not_committed, ARCHIVING, "SL-6"),
    (_late_fetch_is_answered, ARCHIVING, "SL-6"),
    (_producers_are_lost, ARCHIVING, "SL-4"),
]


@pytest.mark.parametrize(("bug", "case", "invariant"), BUGS, ids=[bug.__name__[1:] for bug, _, _ in BUGS])
def test_a_planted_bug_is_found(bug, case, invariant, monkeypatch):
    bug(monkeypatch)
    report = Exploration(case).explore()
    assert report.violation is not None
    assert report.violation.invariant == invariant, report
    assert len(report.path) == report.depth + 1
