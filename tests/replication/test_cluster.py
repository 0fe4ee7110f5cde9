"""Leaders, replicas and takeovers against one another, over a network that loses, doubles and reorders.

Every run is drawn from a seed. What is checked: an acknowledged entry is in every later leader's log, at the same
offsets with the same bytes (SL-2), logs are dense (SL-3), and no sequence is there twice (SL-4).
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from ringlog.replication import (
    Accepted,
    Claimed,
    CompareAndSet,
    Leader,
    Member,
    Output,
    ReadStored,
    Replica,
    ReplicaState,
    ShardState,
    Stored,
    Takeover,
)

SHARD = "shard-0"
ACTORS = ("x", "y", "z")
STEPS = 800


class World:
    """Three actors with a replica each; any of them may lead, and think that it leads."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self.disks = {actor: ReplicaState(SHARD, f"id-{actor}") for actor in ACTORS}
        self.replicas = {actor: Replica(self.disks[actor]) for actor in ACTORS}
        self.leaders: dict[str, Leader] = {}
        self.takeovers: dict[str, Takeover] = {}
        self.state: ShardState | None = None
        self.version = 0
        self.stored = 0
        self.network: list[tuple[str, Any]] = []
        self.sequence = 0
        self.acknowledged: dict[int, Accepted] = {}
        self.opened = 0

    def actor_of(self, id: str) -> str:
        return id.removeprefix("id-")

    def send(self, sender: str, output: Output) -> None:
        for caller, answer in output.reply:
            if isinstance(answer, Accepted):
                self.acknowledged.setdefault(caller, answer)
                assert self.acknowledged[caller] == answer or self.acknowledged[caller].start == answer.start
        for message in output.send:
            if isinstance(message, CompareAndSet):
                self.compare_and_set(sender, message)
            elif isinstance(message, ReadStored):
                self.network.append((sender, Stored(SHARD, self.stored)))
            elif hasattr(message, "receiver"):
                self.network.append((self.actor_of(message.receiver), (sender, message)))

    def compare_and_set(self, sender: str, change: CompareAndSet) -> None:
        if self.version == change.expected:
            self.state, self.version = change.state, self.version + 1
        assert self.state is not None
        self.network.append((sender, Claimed(self.state, self.version)))

    def step(self) -> None:
        self.now += 0.05
        chance = self.draw.random()
        if chance < 0.70 and self.network:
            self.deliver(self.draw.randrange(len(self.network)), self.draw.random())
        elif chance < 0.80 and self.leaders:
            self.submit()
        elif chance < 0.808:
            self.begin_takeover(self.draw.choice(ACTORS))
        elif chance < 0.812:
            self.crash(self.draw.choice(ACTORS))
        elif chance < 0.84 and self.leaders:
            self.archive(self.draw.choice(sorted(self.leaders)))
        else:
            self.tick(self.draw.choice(ACTORS))

    def deliver(self, at: int, fate: float = 0.0) -> None:
        """Deliver one message; a high ``fate`` loses it, or delivers it and keeps it to come again."""
        receiver, message = self.network[at]
        reliable = isinstance(message, Claimed | Stored)
        if fate < 0.93 or reliable:
            del self.network[at]
        if 0.85 <= fate < 0.93 and not reliable:
            return
        if isinstance(message, tuple):  # to the replica of that actor
            sender, request = message
            leader = self.leaders.get(receiver)
            if leader is not None and request.epoch > leader.epoch:
                self.send(receiver, self.leaders.pop(receiver).depose(request.epoch))
            output = self.replicas[receiver].handle(request)
            self.disks[receiver] = self.replicas[receiver].state()
            self.network.extend((sender, reply) for reply in output.send)
            return
        if receiver in self.takeovers:
            self.advance(receiver, self.takeovers[receiver].handle(message, self.now))
        if receiver in self.leaders and not isinstance(message, Claimed | Stored):
            self.send(receiver, self.leaders[receiver].handle(message, self.now))
            if self.leaders[receiver].deposed_by is not None:
                del self.leaders[receiver]

    def advance(self, actor: str, output: Output) -> None:
        takeover = self.takeovers[actor]
        self.send(actor, output)
        if takeover.phase == "lost":
            del self.takeovers[actor]
        elif takeover.opened is not None:
            del self.takeovers[actor]
            opened = takeover.opened
            self.opened += 1
            log = list(opened.entries)
            self.leaders[actor] = Leader(
                SHARD,
                takeover.epoch,
                opened.state.members,
                2,
                f"id-{actor}",
                opened.trimmed,
                log,
                opened.producers,
                10**6,
            )
            self.check(self.leaders[actor])

    def check(self, leader: Leader) -> None:
        """SL-2 to SL-4 of a leader that has just opened."""
        end = leader.trimmed
        seen: set[int] = set()
        for entry in leader.entries:
            assert entry.start == end, "SL-3"
            assert entry.sequence not in seen, "SL-4"
            assert entry.intact()
            assert entry.payload == b"%d" % entry.sequence
            seen.add(entry.sequence)
            end = entry.end
        for sequence, accepted in self.acknowledged.items():
            if accepted.end > leader.trimmed:
                found = [entry for entry in leader.entries if entry.start == accepted.start]
                assert found, f"SL-2: {sequence} was acknowledged at {accepted.start}"
                assert found[0].sequence == sequence, "SL-2"

    def submit(self) -> None:
        """One producer, one batch at a time: the next one only once the last is acknowledged, retries anywhere."""
        actor = self.draw.choice(sorted(self.leaders))
        if self.sequence in self.acknowledged:
            self.sequence += 1
        payload = b"%d" % self.sequence
        self.send(
            actor, self.leaders[actor].append(self.sequence, "p", 0, self.sequence, 3, payload, "quorum", self.now)
        )

    def begin_takeover(self, actor: str) -> None:
        members = [Member(f"id-{one}", one) for one in ACTORS]
        nonce = f"{actor}-{self.now}"
        takeover = Takeover(SHARD, actor, f"id-{actor}", self.state, self.version, members, 2, nonce)
        self.takeovers[actor] = takeover
        self.send(actor, takeover.start(self.now))

    def crash(self, actor: str) -> None:
        self.leaders.pop(actor, None)
        self.takeovers.pop(actor, None)
        self.network = [one for one in self.network if one[0] != actor]
        self.replicas[actor] = Replica(self.disks[actor])

    def archive(self, actor: str) -> None:
        """What a leader has committed may be stored, also by one that has lost its place without knowing."""
        leader = self.leaders[actor]
        if self.stored < leader.trimmed or leader.committed < self.stored:
            return
        self.stored = max(self.stored, leader.committed)
        self.send(actor, leader.trim(self.stored))

    def tick(self, actor: str) -> None:
        if actor in self.takeovers:
            self.advance(actor, self.takeovers[actor].tick(self.now))
        if actor in self.leaders:
            self.send(actor, self.leaders[actor].tick(self.now))

    def calm(self) -> None:
        """Faults stop: one takeover, everything delivered in order, until the pending sequence is acknowledged."""
        self.network.clear()
        self.leaders.clear()
        self.takeovers.clear()
        goal = self.sequence + 1
        self.begin_takeover("x")
        for _ in range(2000):
            self.now += 0.3
            while self.network:
                self.deliver(0)
            for actor in ACTORS:
                self.tick(actor)
            if goal in self.acknowledged:
                return
            if "x" in self.leaders:
                self.submit()
        raise AssertionError("SL-10: no progress although nothing fails any more")


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_acknowledged_entry_is_lost_or_doubled(first: int) -> None:
    opened = acknowledged = 0
    for seed in range(first, first + 100):
        world = World(seed)
        for _ in range(STEPS):
            world.step()
        world.calm()
        opened += world.opened
        acknowledged += len(world.acknowledged)
    assert opened > 100, "most runs must get somewhere"
    assert acknowledged > 200
