"""What may go wrong, how often in this run, and how much of it a cluster must survive."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

KINDS = {
    "crash": "a process is killed and comes back",
    "power cut": "a node ends without its unsynced writes, a torn entry last",
    "wiped disk": "a process comes back with empty journals",
    "bit flip": "a journal does not read back",
    "pause": "a process stops for seconds and goes on: a zombie",
    "partition": "the network falls into two halves",
    "one way": "one node hears nobody",
    "isolation": "one node is alone",
    "loss": "messages are lost, streams break",
    "duplication": "messages come twice",
    "reordering": "messages overtake one another",
    "delay": "messages take up to seconds",
    "slow disk": "a sync takes up to seconds",
    "full disk": "a write fails",
    "metadata away": "the metadata store does nothing",
    "metadata unknown": "the metadata store does what it is asked and does not say so, or later",
    "table failing": "the object store refuses",
    "table slow": "the object store takes seconds",
    "table unknown": "the object store does what it is asked and does not say so, or later",
    "clocks": "clocks run at different speeds",
    "membership": "a shard is moved to other members",
    "duel": "several take over at the same time",
    "controller": "the controller is away, or there are two",
    "compaction": "the table is rewritten",
    "client crash": "a producer ends and a new one begins",
    "restart": "every process is killed at once",
    "retirement": "a shard is retired for good, and later taken up again",
}
"""The kinds of faults, with what each means."""

BEYOND = "beyond the budget"
"""The kind that no cluster survives: more disks are lost than may be."""


@dataclass(frozen=True)
class Mix:
    """How many times a second each kind strikes in this run; kinds that are not in it do not."""

    rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def drawn(cls, draw: Random) -> Mix:
        """A mix in which some kinds are common, most are rare or absent: that finds more than all of them always."""
        share = draw.choice((0.12, 0.25, 0.5))
        chosen = [kind for kind in KINDS if draw.random() < share]
        return cls({kind: draw.choice((0.04, 0.1, 0.3)) for kind in chosen})


class Hits:
    """How often each kind took effect: a message really was lost, a disk really was full."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def hit(self, kind: str) -> None:
        """It took effect once more."""
        self.of[kind] += 1
