"""The controller's decisions: which shard needs a take-over now, and by whom. Safety needs nothing of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringlog.control.placement import Plan, members_of
from ringlog.errors import Unavailable
from ringlog.replication.quorum import seals_needed

Statuses = Mapping[str, Mapping[str, Any]]
"""What each shard actor that answers says of itself: what it leads, and what it keeps."""

PATIENCE_S = 3.0
"""How long a shard may wait for a member before it begins, or goes on, with fewer than wished."""
COMPLETING_S = 1.0
"""How long a shard that is led goes on with fewer than wished once all are there, or others in their places.

Several may come back together."""
LEADERLESS_S = 0.2
"""How long a shard that was led before may wait for a leader, or for one that has a quorum: callers wait with it."""
RETURNING_S = 1.0
"""The same where most of its members were away, and come back one after the other."""
SUBSTITUTE_S = 5.0
"""How long an actor may be away before others keep its shards in its place: one that only restarts is back sooner."""
BACKOFF_S = (0.5, 15.0)
CALM_S = 10.0
"""How long every shard must have been complete before a leader or an actor is moved for balance only."""
PARTING_S = 2.0
"""The same before an actor leaves the node that it shares with another member of one of its shards."""


@dataclass(frozen=True)
class TakeOver:
    """``candidate`` should lead ``shard`` with replicas on ``members``."""

    shard: str
    candidate: str
    members: tuple[str, ...]


@dataclass
class _Attempts:
    absent_since: float
    next_at: float
    pause_s: float = BACKOFF_S[0]
    keepers: tuple[str, ...] = ()
    returning: bool = False


class Reconciler:
    """Compares what should be with what is, shard by shard. False suspicion costs an epoch, never a record."""

    def __init__(self, shards: Sequence[str], actors: Sequence[str], replicas: int, quorum: int) -> None:
        self.shards = tuple(shards)
        self.actors = tuple(actors)
        self._staying = self.actors  # those whose own shards are not to be retired
        self._replicas = replicas
        self._quorum = quorum
        self._wished = {shard: members_of(shard, self.shards, self.actors, replicas) for shard in self.shards}
        self._attempts: dict[str, _Attempts] = {}
        self._away_since: dict[str, float] = {}
        self._kept: dict[str, tuple[str, ...]] = {}  # by shard: the members of the last leader that was heard of
        self._calm_since: float | None = None
        self._settled = True

    def follow(self, plan: Plan) -> None:
        """From now on, these are the shards and the actors that there should be."""
        self.shards, self.actors, self._staying = plan.led, plan.actors, plan.shards
        self._wished = {shard: plan.members(shard, self._replicas) for shard in plan.led}
        self._attempts = {shard: tries for shard, tries in self._attempts.items() if shard in self.shards}
        self._kept = {shard: kept for shard, kept in self._kept.items() if shard in self.shards}
        self._settled = plan.settled

    def decide(
        self, statuses: Statuses, now: float, leaving: Collection[str] = (), moving: str | None = None
    ) -> list[TakeOver]:
        """The take-overs to try now. ``statuses`` are the answers of the actors that answered.

        Those that are ``leaving`` answer still, but their nodes are about to end: they should lead nothing. ``moving``
        is about to begin anew on another node: it should be no member of any shard, so that nobody counts on what it
        has now.
        """
        self._away_since = {actor: self._away_since.get(actor, now) for actor in self.actors if actor not in statuses}
        wanted = [
            takeover for shard in self.shards if (takeover := self._decide(shard, statuses, now, leaving, moving))
        ]
        away = any(actor not in statuses for actor in self.actors)
        if self._attempts or leaving or moving or away or not self._settled:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif self.calm(now, CALM_S) and (balancing := self._balance(statuses, now)):
            wanted += balancing
            self._calm_since = now
        return wanted

    def calm(self, now: float, for_s: float) -> bool:
        """Whether every shard has been complete for ``for_s`` seconds, and nobody was away or about to leave."""
        return self._calm_since is not None and now - self._calm_since >= for_s

    def groups(self) -> list[tuple[str, ...]]:
        """The actors that keep each shard together."""
        return [self.wished(shard) for shard in self.shards]

    def crowded(self, shard: str, statuses: Statuses) -> list[str]:
        """Of the wished that answer, those that keep nothing of ``shard`` since members are on their node.

        None where others have taken their places.
        """
        wished = self._wished.get(shard, ())
        answering = [actor for actor in wished if actor in statuses]
        apart = self._apart(shard, answering, statuses)
        if len(apart) == len(answering) or len(_members(shard, statuses)) >= len(wished):
            return []
        return [actor for actor in answering if actor not in apart]

    def spares_one(self) -> bool:
        """Whether a shard can be led without one of its members."""
        return self._replicas > self._quorum

    def released(self, actor: str, statuses: Statuses) -> bool:
        """Whether nobody counts on ``actor``: others lead what that it should keep, and it is a member of none."""
        counting = any(actor in _members(shard, statuses) for shard in self.shards)
        return not counting and self.dispensable(actor, statuses)

    def lacking(self, shard: str, statuses: Statuses) -> int:
        """How many more actors must answer before ``shard`` can open at all."""
        return max(0, self._quorum - len(self._any_keepers(shard, statuses)))

    def dispensable(self, actor: str, statuses: Statuses) -> bool:
        """Whether every shard that ``actor`` keeps, or should, is led by a quorum of members that answer without it.

        Else its journals may be needed: as who it was, it must not begin anew. Of one that should keep nothing any more
        it is not known which shards still count on it: then every shard must be led so.
        """
        wished = [shard for shard in self.shards if actor in self.wished(shard)]
        kept = [shard for shard in self.shards if actor in _members(shard, statuses)]
        return all(self._led_without(actor, shard, statuses) for shard in (*wished, *kept) or self.shards)

    def superfluous(self, statuses: Statuses) -> list[tuple[str, str, int]]:
        """(actor, shard, epoch): who kept a shard in another's place, and need not any more since that epoch began.

        Only where all that are wished are its members again, and answer.
        """
        found: list[tuple[str, str, int]] = []
        for shard in self.shards:
            leader, members, wished = leader_of(shard, statuses), _members(shard, statuses), self.wished(shard)
            if leader is None or not self._answering(shard, statuses) >= {*wished}:
                continue
            epoch = statuses[leader]["leading"][shard]["epoch"]
            keeping = [actor for actor, status in statuses.items() if shard in status["keeping"]]
            found += [(actor, shard, epoch) for actor in keeping if actor not in members]
        return found

    def _led_without(self, actor: str, shard: str, statuses: Statuses) -> bool:
        return len(self._answering(shard, statuses) - {actor}) >= self._quorum

    def _answering(self, shard: str, statuses: Statuses) -> set[str]:
        """The members with which the shard's leader opened that answer as who they were then."""
        members = _members(shard, statuses)
        return {actor for actor, member in members.items() if _replica(shard, statuses.get(actor)) == member["id"]}

    def _is_stalled(self, shard: str, statuses: Statuses) -> bool:
        """Whether too few of the leader's members answer for an acknowledgement, and enough for a take-over."""
        enough = seals_needed(len(_members(shard, statuses)), self._quorum)
        return enough <= len(self._answering(shard, statuses)) < self._quorum

    def forced(self, shard: str, statuses: Statuses) -> TakeOver:
        """The take-over of ``shard`` that an operator asks for. Raises `Unavailable` where too few could join it."""
        keepers = self._any_keepers(shard, statuses)
        if self.lacking(shard, statuses):
            raise Unavailable(
                f"{shard} needs {self._quorum} of {', '.join(self.actors)} to go on with, and {len(keepers)} of them "
                "answer: look again in a minute, or give them nodes"
            )
        return TakeOver(shard, keepers[0], keepers)

    def failed(self, shard: str, now: float) -> None:
        """A take-over was lost or is stuck: wait longer before the next. Not of a shard that is not to be led."""
        if shard not in self.shards:
            return
        attempts = self._attempts.setdefault(shard, _Attempts(now, now))
        attempts.next_at = now + attempts.pause_s
        attempts.pause_s = min(2 * attempts.pause_s, BACKOFF_S[1])

    def wished(self, shard: str) -> tuple[str, ...]:
        """The actors that should keep ``shard``, the one that should lead it first."""
        return self._wished[shard]

    def _decide(
        self, shard: str, statuses: Statuses, now: float, leaving: Collection[str], moving: str | None
    ) -> TakeOver | None:
        leader = leader_of(shard, statuses)
        members = _members(shard, statuses)
        if members:
            self._kept[shard] = tuple(members)
        keepers = self._keepers(shard, statuses, now, leaving, moving)
        staying = tuple(actor for actor in keepers if actor not in leaving)
        leaves = (leader in leaving and bool(staying)) or (leader is not None and leader == moving)
        complete = leader is not None and {member["id"] for member in members.values()} >= {
            _replica(shard, statuses[actor]) for actor in keepers
        }
        wished = self.wished(shard)
        crowded = {actor for actor in wished if actor in statuses} - {*keepers, *leaving, moving}
        if complete and not leaves and moving not in members and crowded.isdisjoint(members):
            self._attempts.pop(shard, None)
            return None
        attempts = self._attempts.setdefault(shard, _Attempts(now, now))
        if keepers != attempts.keepers:  # what failed before may well go now
            attempts.keepers, attempts.pause_s = keepers, BACKOFF_S[0]
            attempts.next_at = min(attempts.next_at, now + BACKOFF_S[0])
        if len(keepers) < self._quorum:  # nothing can begin yet
            attempts.absent_since, attempts.returning = now, True
            return None
        waited = now - attempts.absent_since
        missing = {*wished} - {*keepers} - crowded
        going = {moving, *leaving, *(actor for actor in wished if self._is_gone(actor, now))}
        everybody = not missing or (len(keepers) == len(wished) and going >= missing)
        if leaves or moving in members:
            ready = True
        elif leader is not None and not self._is_stalled(shard, statuses):
            ready = waited >= (COMPLETING_S if everybody else PATIENCE_S)
        elif _promised(shard, statuses) == 0:
            ready = waited >= PATIENCE_S or everybody
        else:
            patience_s = RETURNING_S if attempts.returning else LEADERLESS_S
            ready = waited >= patience_s or everybody
        if not ready or now < attempts.next_at:
            return None
        attempts.next_at = now + attempts.pause_s
        if leader is not None and not leaves:  # each try is a pause for its callers, and a long tail takes its time
            attempts.pause_s = min(2 * attempts.pause_s, BACKOFF_S[1])
        if leader not in keepers or leaves:
            leader = min(staying or keepers, key=lambda actor: self._unfit(actor, shard, statuses))
        return TakeOver(shard, leader, keepers)

    def _keepers(
        self, shard: str, statuses: Statuses, now: float, leaving: Collection[str], moving: str | None
    ) -> tuple[str, ...]:
        """Who should keep ``shard`` now, of those that answer.

        Those that are wished and live apart; and others in the place of each that has been away for long, leaves, moves
        or shares a node, so that the next failure finds as many copies as this one. Who keeps it in somebody's place
        does so until that one is back. Where nobody can take the place of one that leaves, it stays for as long as it
        answers.
        """
        wished = self.wished(shard)
        answering = [actor for actor in wished if actor in statuses and actor != moving]
        staying = self._apart(shard, [actor for actor in answering if actor not in leaving], statuses)
        free = len(wished) - len(staying)
        substitutes = self._substitutes(shard, statuses, now, answering, staying, {moving, *leaving})
        leaving_yet = [actor for actor in answering if actor in leaving][: free - len(substitutes)]
        return (*(actor for actor in answering if actor in staying or actor in leaving_yet), *substitutes)

    def _apart(self, shard: str, actors: Sequence[str], statuses: Statuses) -> list[str]:
        """Those of ``actors`` that may count together: no node has a quorum, with which its disk could be alone.

        Who leads or keeps the shard stays before who does not, and all that keep it do until a quorum that lives apart
        does: nobody is led by less meanwhile. All of them stay where there is no such quorum.
        """
        most = max(1, self._quorum - 1)
        if max(Counter(_node(actor, statuses) for actor in actors).values(), default=0) <= most:
            return list(actors)  # as nearly always; what follows looks at every status
        leader, kept = leader_of(shard, statuses), self._kept.get(shard) or _holding(shard, statuses)
        on_node: Counter[str] = Counter()
        apart: set[str] = set()
        for actor in sorted(actors, key=lambda actor: (actor != leader, actor not in kept)):
            node = _node(actor, statuses)
            if on_node[node] < most:
                on_node[node] += 1
                apart.add(actor)
        if len(apart) < self._quorum:
            return list(actors)
        ready = len(apart.intersection(kept)) >= self._quorum
        return [actor for actor in actors if actor in apart or (actor in kept and not ready)]

    def _substitutes(
        self,
        shard: str,
        statuses: Statuses,
        now: float,
        answering: Sequence[str],
        staying: Sequence[str],
        going: Collection[str | None],
    ) -> list[str]:
        """Who should keep ``shard`` beside those of the wished that are ``staying``: first who does already.

        Nobody on the node of another, since one disk would then hold two of the copies that count; and nobody for who
        may only restart. Neither holds where too few are ``answering`` for a quorum: then nothing is acknowledged. And
        nobody new while too few of those that keep it now answer for a take-over: it would only stop who leads.
        """
        wished = self.wished(shard)
        if len(staying) == len(wished):
            return []
        gone = [
            actor
            for actor in wished
            if actor in going or self._is_gone(actor, now) or (actor in answering and actor not in staying)
        ]
        kept = self._kept.get(shard) or _holding(shard, statuses)
        others = [actor for actor in self._others(shard) if actor not in going and not self._is_gone(actor, now)]
        keeping = [actor for actor in others if actor in kept]
        restarting = sum(actor not in statuses for actor in keeping)  # their places are kept for them
        needed = max(0, self._quorum - len(answering))
        places = max(min(max(len(gone), len(keeping)), len(wished) - len(staying)) - restarting, needed)
        known = self._kept.get(shard, ())
        enough = bool(known) and sum(actor in statuses for actor in known) >= seals_needed(len(known), self._quorum)
        new = [actor for actor in others if actor not in keeping] if enough else []
        nodes = {_node(actor, statuses) for actor in staying}
        found: list[str] = []
        beside: list[str] = []
        for actor in (*keeping, *new):
            if actor in statuses:
                (found if _node(actor, statuses) not in nodes else beside).append(actor)
                nodes.add(_node(actor, statuses))
        found = found[:places]
        return found + beside[: max(0, needed - len(found))]

    def _is_gone(self, actor: str, now: float) -> bool:
        """Whether it has been away for longer than one that only restarts."""
        return now - self._away_since.get(actor, now) >= SUBSTITUTE_S

    def _any_keepers(self, shard: str, statuses: Statuses) -> tuple[str, ...]:
        """Who could keep ``shard`` at once, whoever comes back: who is wished before others, other nodes before one."""
        found = [actor for actor in self.wished(shard) if actor in statuses]
        others = [actor for actor in self._others(shard) if actor in statuses]
        nodes = {_node(actor, statuses) for actor in found}
        others.sort(key=lambda actor: _node(actor, statuses) in nodes)
        return (*found, *others)[: len(self.wished(shard))]

    def _others(self, shard: str) -> list[str]:
        """Who may keep ``shard`` in another's place, beginning with the one after those that are wished."""
        wished, actors = self.wished(shard), self._staying
        after = actors.index(wished[-1]) + 1 if wished[-1] in actors else 0
        return [actor for actor in (*actors[after:], *actors[:after]) if actor not in wished]

    def _unfit(self, actor: str, shard: str, statuses: Statuses) -> tuple[int, int]:
        """The less, the better: whoever lacks the newest epoch must fetch the tail, and who leads much has work."""
        kept = statuses[actor]["keeping"].get(shard)
        return -kept["log_epoch"] if kept else 0, _led_by(actor, statuses, self.shards)

    def _balance(self, statuses: Statuses, now: float) -> list[TakeOver]:
        """At most one move: of a shard to the actor that should lead it, which leads two fewer than its leader."""
        for shard in self.shards:
            leader, first = leader_of(shard, statuses), self.wished(shard)[0]
            keepers = self._keepers(shard, statuses, now, (), None)
            if leader in (None, first) or first not in keepers:
                continue
            if _led_by(leader, statuses, self.shards) >= _led_by(first, statuses, self.shards) + 2:
                return [TakeOver(shard, first, keepers)]
        return []


def leader_of(shard: str, statuses: Statuses) -> str | None:
    """The actor that leads ``shard`` in the highest epoch; None when nobody says so.

    A leader whose epoch is below what some replica has promised is over, even if it has not heard of that yet.
    """
    promised = _promised(shard, statuses)
    leading = [
        (status["leading"][shard]["epoch"], actor)
        for actor, status in statuses.items()
        if shard in status["leading"] and status["leading"][shard]["epoch"] >= promised
    ]
    return max(leading)[1] if leading else None


def leaders_of(shards: Sequence[str], statuses: Statuses) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """As the router is told it: who leads each of ``shards`` and where that listens; and how far each is committed."""
    leaders, committed = {}, {}
    for shard in shards:
        actor = leader_of(shard, statuses)
        if actor is not None:
            led = statuses[actor]["leading"][shard]
            where = statuses[actor]["location"]
            leaders[shard] = {"shard": shard, "actor": actor, "location": where, "epoch": led["epoch"]}
            committed[shard] = led["committed"]
    return leaders, committed


def _members(shard: str, statuses: Statuses) -> Mapping[str, Mapping[str, Any]]:
    """By actor: the members with which the leader's epoch opened; none where nobody leads."""
    leader = leader_of(shard, statuses)
    members: Mapping[str, Mapping[str, Any]] = {} if leader is None else statuses[leader]["leading"][shard]["members"]
    return members


def _promised(shard: str, statuses: Statuses) -> int:
    """The highest epoch that any replica of the shard has promised."""
    return max(
        (status["keeping"][shard]["promised"] for status in statuses.values() if shard in status["keeping"]), default=0
    )


def _led_by(actor: str, statuses: Statuses, shards: Sequence[str]) -> int:
    """How many shards the actor leads."""
    return sum(leader_of(shard, statuses) == actor for shard in shards)


def _holding(shard: str, statuses: Statuses) -> list[str]:
    """Those that answer and whose log is of the newest epoch of which any of them has one."""
    epochs = {actor: status["keeping"].get(shard, {}).get("log_epoch", 0) for actor, status in statuses.items()}
    newest = max(epochs.values(), default=0)
    return [actor for actor, epoch in epochs.items() if epoch == newest > 0]


def _node(actor: str, statuses: Statuses) -> str:
    """Where the actor runs; the actor itself where that is not said."""
    return str(statuses[actor].get("node", actor))


def _replica(shard: str, status: Mapping[str, Any] | None) -> str | None:
    """The id that the actor's journal of the shard has now; a journal that was lost comes back as somebody new."""
    kept = status["keeping"].get(shard) if status else None
    return kept["id"] if kept else None
