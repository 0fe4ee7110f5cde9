"""A simulator is trusted because it catches known bugs. Each is planted alone and must be noticed by what is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from simulation.mutants import MUTANTS
from simulation.planted import Directed, Mutant, Seeds, Transcript, fresh, planted
from simulation.scenarios import SCENARIOS

TRANSCRIPTS = Path(__file__).parent.parent / "replication" / "testdata" / "scenarios"


def noticed(by: Seeds | Transcript | Directed) -> bool:
    """Whether the package that is imported now breaks something. Any error will do: a core that stops is no lie."""
    if isinstance(by, Seeds):
        simulation = fresh("ringlog.simulation")
        mix = None if by.rates is None else simulation.Mix(dict(by.rates))
        return any(_breaks(lambda seed=seed: _run(simulation, seed, mix)) for seed in range(by.count))
    if isinstance(by, Transcript):
        return _breaks(lambda: _replay(by.name))
    return _breaks(SCENARIOS[by.name])


def _breaks(what: Callable[[], None]) -> bool:
    try:
        what()
    except Exception:  # noqa: BLE001  (a violation, an assertion, or whatever a broken core stumbles over)
        return True
    return False


def _run(simulation: object, seed: int, mix: object) -> None:
    violation = simulation.simulate(seed, mix=mix).violation  # type: ignore[attr-defined]
    assert violation is None, violation


def _replay(name: str) -> None:
    known = (TRANSCRIPTS / f"{name}.txt").read_text().rstrip("\n")
    scene = fresh("replication.scene").Scene()
    assert fresh("replication.transcript").replay(known, scene.execute) == known


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_planted_bug_is_noticed(mutant: Mutant) -> None:
    with planted(mutant):
        assert noticed(mutant.caught_by)


def test_nothing_is_noticed_where_nothing_is_planted() -> None:
    """With the same seeds, mixes, transcripts and scenarios: else the tests above would prove nothing."""
    seeds: Counter[tuple[tuple[str, float], ...] | None] = Counter()
    for mutant in MUTANTS:
        by = mutant.caught_by
        if isinstance(by, Seeds):
            rates = None if by.rates is None else tuple(by.rates.items())
            seeds[rates] = max(seeds[rates], by.count)
    with planted(None):
        for rates, count in seeds.items():
            assert not noticed(Seeds(count, None if rates is None else dict(rates)))
        for path in sorted(TRANSCRIPTS.glob("*.txt")):
            _replay(path.stem)
        for scenario in SCENARIOS.values():
            scenario()


def test_there_are_enough_of_them_and_each_is_one_change() -> None:
    assert len(MUTANTS) >= 40
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.module, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)
