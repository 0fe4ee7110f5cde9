"""The simulator's own promises: seeds pass, the same seed is the same run everywhere, a violation tells its story."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ringlog.simulation import KINDS, Mix, simulate
from ringlog.simulation.__main__ import main, seeds, table
from ringlog.simulation.faults import BEYOND
from simulation.planted import Mutant, Seeds, fresh, planted

SEEDS = 100
"""How many seeds the suite runs; `.ci/run` runs 2,000."""


def test_no_seed_violates_anything_and_runs_get_somewhere() -> None:
    reports = [simulate(seed) for seed in range(SEEDS)]
    assert [(report.seed, report.violation) for report in reports if report.violation] == []
    met = {kind for report in reports for kind in report.faults}
    assert met >= set(KINDS)
    for what, least in (("acknowledged", 5000), ("checked reads", 1000), ("open", 500), ("not stored", 100)):
        assert sum(report.counts[what] for report in reports) > least, what


def test_beyond_the_budget_shards_say_so_and_go_on_only_when_the_loss_is_accepted() -> None:
    reports = [simulate(seed, beyond=True) for seed in range(40)]
    assert [(report.seed, report.violation) for report in reports if report.violation] == []
    assert sum(report.faults[BEYOND] for report in reports) > 10
    assert sum(report.counts["accepted losses"] for report in reports) > 10
    assert sum(report.counts["lost by agreement"] for report in reports) > 10, "what is not lost needs no word"


def test_without_faults_nothing_is_lost_unknown_or_slow() -> None:
    for seed in range(5):
        report = simulate(seed, mix=Mix(), beyond=False)
        assert report.violation is None
        assert report.counts["missing shards"] == 0
        assert report.counts["open"] <= 3 * 3, "each shard is opened once, or once more to be complete"


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_same_seed_is_the_same_run_in_every_process(hash_seed: str) -> None:
    chosen = range(0, SEEDS, 20)
    program = (
        "from ringlog.simulation import simulate\n"
        f"for seed in {chosen!r}:\n"
        "    report = simulate(seed, traced=True)\n"
        "    print(seed, report.digest, report.events, sorted(report.counts.items()), hash(tuple(report.story)) and '')\n"
        "    print('\\n'.join(report.story))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    expected = []
    for seed in chosen:
        report = simulate(seed, traced=True)
        expected.append(f"{seed} {report.digest} {report.events} {sorted(report.counts.items())} ")
        expected += report.story
    assert done.stdout.splitlines() == [line for lines in expected for line in lines.splitlines() or [""]]


def test_one_seed_in_twenty_is_the_same_run_twice() -> None:
    """Of the 2,000 that CI runs; in another process, whose sets and dicts of strings have another order."""
    chosen = range(0, 2000, 20)
    program = f"from ringlog.simulation import simulate\nprint([simulate(seed).digest for seed in {chosen!r}])"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    here = [simulate(seed).digest for seed in chosen]
    told, _ = other.communicate()
    assert told.strip() == str(here)


def test_a_traced_run_is_the_run_that_it_traces() -> None:
    assert simulate(3, traced=True).digest == simulate(3).digest


def test_a_violation_tells_its_story_from_cause_to_effect(capsys: pytest.CaptureFixture[str]) -> None:
    bug = Mutant(
        "acknowledged when ordered",
        "ringlog.replication.leader",
        '"quorum": self.committed,',
        '"quorum": self.end,',
        Seeds(50),
    )
    with planted(bug):
        assert fresh("ringlog.simulation.__main__").main(["--seeds", "0:50"]) == 1
    told = capsys.readouterr().out
    assert "SL-2" in told
    assert "again: python -m ringlog.simulation --trace" in told
    lines = [line.split() for line in told.split("…")[0].splitlines() if line.startswith("#")]
    assert len(lines) > 3
    causes = {line[0]: line[2] for line in lines}
    assert all(cause == "#0" or cause in causes for cause in causes.values()), "every cause is told before its effect"


def test_the_command_runs_seeds_and_counts_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0:3"]) == 0
    assert "3 seeds" in capsys.readouterr().out
    assert main(["--trace", "1"]) == 0
    assert "every invariant held" in capsys.readouterr().out
    assert seeds("5:7") == range(5, 7)
    assert "none: bit flip" in table([])
