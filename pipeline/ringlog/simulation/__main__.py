"""``python -m ringlog.simulation --seeds 0:2000`` runs seeds; ``--trace SEED`` tells the story of one."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from ringlog.simulation import KINDS, Report, simulate

PROGRESS_S = 10.0


def seeds(text: str) -> range:
    """``A:B`` is A to B − 1; ``A`` is that one.

    >>> seeds("0:3"), seeds("7")
    (range(0, 3), range(7, 8))
    """
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def told(report: Report) -> str:
    """The story of a run, and how to repeat it."""
    lines = [*report.story, "", report.violation or "every invariant held"]
    lines += [f"again: python -m ringlog.simulation --trace {report.seed}", f"digest {report.digest:08x}"]
    return "\n".join(lines)


def table(reports: Iterable[Report]) -> str:
    """How many runs met each kind of fault, and what they did."""
    runs, faults, counts = 0, Counter[str](), Counter[str]()
    simulated_s = events = 0.0
    for report in reports:
        runs += 1
        simulated_s += report.simulated_s
        events += report.events
        counts.update(report.counts)
        faults.update(report.faults.keys())
        counts["faults"] += report.faults.total()
    hours = simulated_s / 3600
    lines = [f"{runs} seeds, {hours:.1f} simulated hours, {events:.0f} events, {counts.pop('faults', 0)} faults"]
    lines += [f"  {faults[kind]:7} seeds ({faults[kind] / max(1, runs):5.1%}): {kind}" for kind in sorted(faults)]
    lines += [f"  none: {kind}" for kind in KINDS if kind not in faults]
    lines.append(", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    return "\n".join(lines)


def _run(chosen: range, stopped: list[Report]) -> Iterator[Report]:
    """Reports, until the first violation; says now and then how far it is."""
    begin = said = time.monotonic()
    for seed in chosen:
        report = simulate(seed)
        yield report
        if report.violation:
            stopped.append(report)
            return
        if time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            done = seed - chosen.start + 1
            rate = done / (said - begin)
            left = (len(chosen) - done) / rate
            print(f"{done} of {len(chosen)} seeds, {rate:.1f} a second, {left:.0f} s left", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 for a violation."""
    parser = argparse.ArgumentParser(prog="python -m ringlog.simulation", description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--seeds", type=seeds, help="run these, A:B, and stop at the first violation")
    chosen.add_argument("--trace", type=int, metavar="SEED", help="run this one and tell all that happened")
    wanted = parser.parse_args(arguments)
    if wanted.trace is not None:
        report = simulate(wanted.trace, traced=True)
        print(told(report))
        return 1 if report.violation else 0
    stopped: list[Report] = []
    print(table(_run(wanted.seeds, stopped)))
    for report in stopped:
        print(told(simulate(report.seed, traced=True)))
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
