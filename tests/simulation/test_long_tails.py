"""What a member holds of a long tail is asked before it is sent; here every tail is a long one."""

from __future__ import annotations

import pytest

from ringlog.simulation import simulate

SEEDS = 40


def test_no_seed_violates_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlog.replication.takeover.UNASKED_BYTES_MAX", -1)
    reports = [simulate(seed, beyond=beyond) for seed in range(SEEDS // 2) for beyond in (False, True)]
    assert [(report.seed, report.violation) for report in reports if report.violation] == []
    assert sum(report.counts["open"] for report in reports) > 200
