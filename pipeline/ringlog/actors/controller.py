"""The controller: keeps the shard actors there, every shard led, the router told. Safety needs nothing of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ringlog.actors.flushing import flush
from ringlog.actors.heartbeats import HEARTBEAT_S, Heartbeats, Remote
from ringlog.actors.surroundings import Household
from ringlog.actors.tries import Tries, Try, do_all, home
from ringlog.control import Plan, Reconciler, TakeOver
from ringlog.control.draining import Draining
from ringlog.control.homes import Move
from ringlog.control.reconcile import CALM_S, PARTING_S, Statuses, leader_of, leaders_of
from ringlog.errors import ConfigurationError, Conflict, RinglogError, Unavailable
from ringlog.replication.takeover import LOSS_GRACE_S

_logger = logging.getLogger(__name__)

THREADS_MAX = 256
"""How many calls may be under way; threads are made as they are needed."""
PLAN_S = (1.0, 30.0)
"""How often the metadata store is asked which shards there should be: while that is being made so, and afterwards."""
FLUSH_S = 10.0
"""How long the rest of a shard that is to be retired may take to be archived, before it is tried again."""
ROUND_S = 0.1
"""How often it is looked what is to be done, when nothing is heard of a change."""
CALL_DEADLINE_S = 3.0
TAKEOVER_DEADLINE_S = 20.0
ABSENT_S = (1.0, 5.0)
"""How long an actor may be silent before it is looked where it is; and how often, at most, where it stays away."""
NODES_S = 1.0
"""How often it is asked which nodes are about to end, and whether another has come."""
REPLACE_S = 60.0
"""How long a node with journals may be away before an actor begins anew on another, where no shard needs them."""
HANGS_S = 120.0
"""How long an actor whose node is there may be silent before it is started again, from its journals."""
MOVE_S = 30.0
"""How long an actor that moves may take until nobody counts on what it has. Then it stays."""
MOVE_AGAIN_S = 30.0
"""How long nobody moves after a move that came to nothing: each takes every shard of the actor two epochs."""
GATHER_S = 30.0
"""How long an actor that begins anew may take until it answers."""
ACCEPT_LOSS_DEADLINE_S = 150.0
"""Longer than a try that is under way, actors that begin anew, and a take-over that waits for the lost, together."""


class Controller:
    """Watches the shard actors of one pipeline, which ``household`` brings and brings back, like the other actors.

    ``token`` is what its data plane asks for.
    """

    def __init__(
        self,
        replicas: int,
        quorum: int,
        household: Household,
        token: str,
    ) -> None:
        self._reconciler = Reconciler((), (), replicas, quorum)
        self._plan: Plan | None = None
        self._planning = threading.Lock()
        self._followed: Plan | None = None
        self._replan = threading.Event()
        self._draining = Draining()
        self._dismissed: set[str] = set()
        self._household = household
        self._router: Remote | None = None
        self._shards: dict[str, Remote] = {}
        self._absent_since: dict[str, float] = {}
        self._look_again_at: dict[str, float] = {}
        self._hangs: dict[str, tuple[float, float]] = {}  # after how long an absence, and how long it was given
        self._leaving: Collection[str] = ()
        self._move: Move | None = None
        self._move_until = 0.0
        self._next_move_at = 0.0
        self._trouble: dict[str, str] = {}
        self._plan_trouble: str | None = "it has not been read yet"
        self._away: dict[str, str] = {}
        self._tries = Tries()
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._unpublished = threading.Event()
        self._heartbeats = Heartbeats(self._changed, token)
        # Whoever flushes for long, or waits for a call that hangs, holds up no takeover.
        self._calls = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="ringlog-call")
        self._flushes = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="ringlog-flush")
        self._tasks = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="ringlog-task")
        self._threads = [
            threading.Thread(target=self._run, name="ringlog-controller", daemon=True),
            threading.Thread(target=self._keep_to_the_plan, name="ringlog-plan", daemon=True),
            threading.Thread(target=self._keep_publishing, name="ringlog-publish", daemon=True),
            threading.Thread(target=self._keep_looking_at_nodes, name="ringlog-nodes", daemon=True),
        ]

    def begin(self) -> None:
        """Start watching."""
        for thread in self._threads:
            thread.start()

    def status(self) -> dict[str, Any]:
        """What is known of every shard and shard actor."""
        plan_trouble = self._plan_trouble  # first: it may be read just now
        statuses, trouble, plan = self._heartbeats.statuses(), dict(self._trouble), self._plan or Plan(0, ())
        shards = {}
        for shard in plan.led:
            leader = leader_of(shard, statuses)
            led = statuses[leader]["leading"][shard] if leader else {}
            shards[shard] = {
                "leader": leader,
                **led,
                "trouble": trouble.get(shard),
                "retiring": shard in plan.retiring,
                "crowded": self._reconciler.crowded(shard, statuses),
            }
        away = {actor: self._why_away(actor) for actor in self._reconciler.actors if actor not in statuses}
        return {
            "shards": shards,
            "actors": statuses,
            "lingering": [one for one in (*plan.lingering, *plan.gone) if one not in self._dismissed],
            "away": {actor: why for actor, why in away.items() if why},
            "plan_trouble": plan_trouble,
        }

    @property
    def is_closed(self) -> bool:
        """Whether it watches no more."""
        return self._closed.is_set()

    def _why_away(self, actor: str) -> str:
        reasons = (self._away.get(actor), self._heartbeats.error(actor))
        return "; ".join(reason for reason in reasons if reason)

    def shards_wanted(self) -> int:
        """How many shards there should be; 0 while that is not known."""
        return len(self._plan.shards) if self._plan else 0

    def change_shards(self, shards: int) -> None:
        """Have so many shards from now on. What follows from it is done meanwhile, and after any restart.

        Raises `ConfigurationError`, `Conflict`, `Unavailable`, or `OutcomeUnknown` where nobody can say whether that
        was decided.
        """
        self._household.change_shards(shards)
        self._read_plan()  # now, as far as it can be read: whoever else reads it may be waiting for something
        self._replan.set()

    def flush(self, timeout_s: float) -> dict[str, int]:
        """Archive what every shard has committed. Raises `Unavailable`, naming what is not archived."""
        return flush(self._known_shards, self._shards, self._flushes, timeout_s, self._closed)

    def _known_shards(self) -> Collection[str]:
        if self._followed is None:
            raise Unavailable(f"which shards there are is not known yet: {self._plan_trouble}")
        return self._reconciler.shards

    def accept_loss(self, shard: str) -> int:
        """Open ``shard`` without the members that do not answer: what only they hold is given up. Returns the epoch.

        Where too few actors are left for it, some whose nodes are gone begin anew on others, with empty journals.
        Raises `Conflict` where it is led and so nothing is to be given up, and `Unavailable`, saying what is missing.
        """
        plan = self._followed or Plan(0, ())
        if shard not in plan.led:
            raise ConfigurationError(f"there is no {shard}: the shards are {', '.join(plan.led) or 'not known yet'}")
        this = self._tries.begin(shard, wait_s=ACCEPT_LOSS_DEADLINE_S / 2)
        if this is None:
            raise Unavailable(f"a takeover of {shard} does not come to its end: try again")
        try:
            statuses = self._ask_all()
            leader = leader_of(shard, statuses)
            if leader is not None:
                raise Conflict(f"{shard} is led by {leader}: nothing was given up. Look again with `ringlog recover`")
            statuses = self._gathered(shard, statuses)
            epoch = self._lead(self._reconciler.forced(shard, statuses), statuses, plan.version, accept_loss=True)
            self._trouble.pop(shard, None)
            return epoch
        finally:
            self._tries.end(this)

    def _gathered(self, shard: str, statuses: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The statuses once enough actors answer; as many as are lacking begin anew elsewhere, if their nodes are gone.

        Not one more than that: other shards may still wait for the disks of the rest.
        """
        lacking = self._reconciler.lacking(shard, statuses)
        for actor in self._reconciler.wished(shard):
            if not lacking or actor in statuses:
                continue
            this = self._tries.begin(home(actor), wait_s=CALL_DEADLINE_S)
            if this is not None:
                lacking -= self._bring(this, actor, anywhere=True)
        deadline = time.monotonic() + GATHER_S
        while self._reconciler.lacking(shard, statuses) and time.monotonic() < deadline:
            self._closed.wait(HEARTBEAT_S)
            statuses = self._ask_all()
        return statuses

    def _ask_all(self) -> dict[str, dict[str, Any]]:
        """The status of each actor that answers now: what an operator decides on must not be old."""
        asked = {
            actor: self._calls.submit(remote.call, "status", {}, timeout_s=CALL_DEADLINE_S)
            for actor, remote in list(self._shards.items())
        }
        statuses: dict[str, dict[str, Any]] = {}
        for actor, call in asked.items():
            try:
                statuses[actor] = call.result()
            except RinglogError as error:
                _logger.info("%s does not answer: %s", actor, error)
        return statuses

    def leave(self) -> None:
        """Watch no more; the shard actors run on."""
        self._closed.set()
        for event in (self._changed, self._unpublished, self._replan):
            event.set()
        for thread in self._threads:
            thread.join()
        self._heartbeats.close()

    def close(self) -> None:
        """Let every shard actor close its journals."""
        self.leave()
        shards = list(self._shards.values())
        for call in [self._calls.submit(shard.call, "close", timeout_s=CALL_DEADLINE_S) for shard in shards]:
            try:
                call.result()
            except Unavailable as error:
                _logger.warning("a shard actor did not close in time; its journal is safe all the same: %s", error)

    def _run(self) -> None:
        while not self._closed.is_set():
            if self._changed.is_set():
                self._changed.clear()
                self._unpublished.set()
            try:
                self._round()
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: the next round begins anew)
                _logger.warning("this round of the controller failed; the next one begins anew: %s", error)
            self._changed.wait(ROUND_S)

    def _round(self) -> None:
        plan = self._plan
        if plan is None:
            return
        if plan != self._followed:
            self._reconciler.follow(plan)
            self._followed = plan
            self._dismissed -= {*plan.actors}
        statuses = self._heartbeats.statuses()
        self._give_up_silent(statuses)
        move = self._moving(statuses, time.monotonic())
        moving = None if move is None else move.actor
        for takeover in self._reconciler.decide(statuses, time.monotonic(), self._leaving, moving):
            this = self._tries.begin(takeover.shard, candidate=takeover.candidate)
            if this is not None:
                self._tasks.submit(self._take_over, this, takeover, statuses, plan.version)
        if move is not None and self._reconciler.released(move.actor, statuses):
            this = self._tries.begin(home(move.actor))
            if this is not None:
                self._tasks.submit(self._carry_out, this, move)
        self._look_after(statuses, time.monotonic())

    def _moving(self, statuses: Statuses, now: float) -> Move | None:
        """The move that is to be made. It is given up where anybody goes away, or it takes too long.

        Nothing of it need be undone: the actor has all that it had, and is made a member again.
        """
        move = self._move
        if move is None or home(move.actor) in self._tries:
            return move
        if now > self._move_until or self._leaving or any(name not in statuses for name in self._reconciler.actors):
            _logger.warning("%s does not move now: somebody is away, or it takes too long", move.actor)
            self._move = move = None
            self._next_move_at = now + MOVE_AGAIN_S
        return move

    def _carry_out(self, this: Try, move: Move) -> None:
        """Nobody counts on what the actor has: let it begin anew."""
        try:
            self._attach(move.actor, self._household.move(move))
            _logger.info("%s begins anew on %s", move.actor, move.to.host)
        except Exception as error:  # noqa: BLE001  (shown in the log; where it is away now, it is brought back)
            _logger.warning("%s could not be moved: %s", move.actor, error)
            self._next_move_at = time.monotonic() + MOVE_AGAIN_S
        finally:
            self._move = None
            self._tries.end(this)

    def _keep_to_the_plan(self) -> None:
        """What the metadata says there should be, step by step; whoever comes next finds each step again from there.

        In a thread of its own: the metadata store may be away.
        """
        while not self._closed.is_set():
            plan = self._read_plan()
            if plan is not None:
                try:
                    do_all([partial(self._retire, plan), self._dismiss, self._household.keep_housekeeper])
                except Unavailable as error:
                    _logger.warning("this is tried again: %s", error)
            self._replan.wait(PLAN_S[plan is not None and plan.settled])
            self._replan.clear()

    def _read_plan(self) -> Plan | None:
        try:
            plan = self._adopt(self._household.plan())
        except Exception as error:  # noqa: BLE001  (shown in status, and tried again)
            _logger.warning("which shards there should be cannot be read now: %s", error)
            self._plan_trouble = str(error)
            return None
        self._plan_trouble = None
        return plan

    def _adopt(self, plan: Plan) -> Plan:
        """The newest plan that is known: ``plan``, unless it was read before a later decision."""
        with self._planning:
            if self._plan is None or (plan != self._plan and plan.version >= self._plan.version):
                _logger.info("the shards are %s; to be retired are %s", plan.shards, plan.retiring or "none")
                self._plan = plan
                self._changed.set()
            return self._plan

    def _retire(self, plan: Plan) -> None:
        """Take the shards that are to be retired out of the world, once clients have left them and all is archived."""
        statuses = self._heartbeats.statuses()
        anybody = next((actor for actor in plan.shards if actor in statuses), None)
        ends = [TakeOver(shard, anybody, ()) for shard in plan.unled if anybody is not None]
        steps: list[Callable[[], object]] = [partial(self._end_shard, one, statuses, plan) for one in ends]
        do_all([*steps, *(partial(self._retire_led, shard, statuses, plan) for shard in plan.retiring)])

    def _retire_led(self, shard: str, statuses: Statuses, plan: Plan) -> None:
        leader = leader_of(shard, statuses)
        if leader is None or plan != self._followed:
            return
        led = statuses[leader]["leading"][shard]
        if not self._draining.over(shard, led["end"], time.monotonic()):
            return
        if led["archived"] < led["end"]:
            self._shards[leader].call("flush", FLUSH_S, timeout_s=FLUSH_S + CALL_DEADLINE_S)
            return
        alive = (actor for actor in self._reconciler.wished(shard) if actor in statuses and actor != leader)
        self._end_shard(TakeOver(shard, leader, (leader, *alive)), statuses, plan)

    def _end_shard(self, takeover: TakeOver, statuses: Statuses, plan: Plan) -> None:
        this = self._tries.begin(takeover.shard, candidate=takeover.candidate)
        if this is not None:
            self._take_over(this, takeover, statuses, plan.version, retire=True)
            self._replan.set()

    def _dismiss(self) -> None:
        """Nobody counts on the journals of a retired shard, and on its actor only as long as other shards do.

        Nor on that of who kept a shard in another's place. All this may be old news: so whoever has promised a later
        epoch keeps its journal.
        """
        plan = self._plan
        if plan is None:
            return
        statuses = self._heartbeats.statuses()
        steps: list[Callable[[], object]] = [
            partial(remote.call, "forget", shard, epoch, timeout_s=CALL_DEADLINE_S)
            for actor, remote in list(self._shards.items())
            for shard, epoch in plan.retired.items()
            if shard in statuses.get(actor, {}).get("keeping", ()) and actor not in plan.gone
        ]
        if plan == self._followed:
            steps += [
                partial(self._shards[actor].call, "forget", shard, epoch, timeout_s=CALL_DEADLINE_S)
                for actor, shard, epoch in self._reconciler.superfluous(statuses)
                if actor in self._shards
            ]
        do_all([*steps, *(partial(self._let_go, actor, plan) for actor in sorted({*plan.gone} - self._dismissed))])

    def _let_go(self, actor: str, plan: Plan) -> None:
        """End an actor that nobody needs."""
        this = self._tries.begin(home(actor))
        if this is None:
            return
        try:
            if plan == self._plan:  # else it may be wanted again
                self._heartbeats.forget(actor)
                self._shards.pop(actor, None)
                self._household.dismiss(actor)
                self._dismissed.add(actor)
        finally:
            self._tries.end(this)

    def _give_up_silent(self, statuses: Statuses) -> None:
        """A candidate that is silent holds up nobody: another may try, and fences it should it go on."""
        for one in self._tries.under_way():
            if one.candidate is not None and one.candidate not in statuses:
                self._reconciler.failed(one.what, time.monotonic())
                self._tries.end(one)

    def _look_after(self, statuses: Statuses, now: float) -> None:
        """Bring every actor that is not there, or find out what became of it."""
        for actor in self._reconciler.actors:
            if actor in statuses:
                if self._absent_since.pop(actor, None) is not None:
                    _logger.info("%s is there", actor)
                    self._away.pop(actor, None)
                    self._hangs.pop(actor, None)
                self._household.lives(actor, statuses[actor]["node"])
                continue
            if actor not in self._absent_since:
                _logger.info("%s is silent", actor)
            absent_s = now - self._absent_since.setdefault(actor, now)
            missed = actor not in self._shards or absent_s >= ABSENT_S[0]
            if not missed or now < self._look_again_at.get(actor, 0.0):
                continue
            this = self._tries.begin(home(actor))
            if this is not None:
                self._look_again_at[actor] = now + min(max(absent_s / 4, ABSENT_S[0]), ABSENT_S[1])
                needed = not self._reconciler.dispensable(actor, statuses)
                for_good = absent_s >= REPLACE_S or actor in self._leaving
                self._tasks.submit(self._bring, this, actor, for_good and not needed, absent_s)

    def _bring(self, this: Try, actor: str, anywhere: bool, absent_s: float = 0.0) -> bool:
        """Whether it is on its way; ends ``this`` try."""
        try:
            if self._closed.is_set():
                return False
            remote = self._household.summon(actor, anywhere, self._reconciler.groups())
            if remote is not None:
                self._away.pop(actor, None)
                self._hangs[actor] = (absent_s + HANGS_S, HANGS_S)
                self._attach(actor, remote)
            else:
                self._await(actor, absent_s)
            return remote is not None
        except Exception as error:  # noqa: BLE001  (shown in status, and tried again)
            _logger.warning("%s cannot be brought back now: %s", actor, error)
            self._away[actor] = str(error)
            return False
        finally:
            self._tries.end(this)

    def _await(self, actor: str, absent_s: float) -> None:
        """It is Ray's to bring it back on its node; but Ray takes one that hangs for one that runs.

        One that only takes long, as it reads large journals, is given twice as long each time.
        """
        self._away[actor] = f"{actor} does not answer, on a node that is there: it begins, hangs, or lacks memory there"
        hangs_after_s, given_s = self._hangs.get(actor, (HANGS_S, HANGS_S))
        if absent_s >= hangs_after_s:
            _logger.warning("%s is silent for %g s, on a node that is there: it is started again", actor, absent_s)
            self._hangs[actor] = (absent_s + 2 * given_s, 2 * given_s)
            self._household.restart(actor)

    def _attach(self, actor: str, remote: Remote) -> None:
        self._shards[actor] = remote
        self._heartbeats.watch(actor, remote)

    def _keep_looking_at_nodes(self) -> None:
        """Who leaves, and who should move. In a thread of its own: Ray may take long to answer, nobody waits."""
        while not self._closed.is_set():
            try:
                self._leaving = self._household.leaving()
                if self._move is None and self._reconciler.spares_one():
                    self._move = self._next_move(time.monotonic())
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: it is asked again)
                _logger.debug("which nodes there are is not known now: %s", error)
            self._closed.wait(NODES_S)

    def _next_move(self, now: float) -> Move | None:
        if now < self._next_move_at or not self._reconciler.calm(now, PARTING_S):
            return None
        move = self._household.next_move(self._reconciler.groups())
        self._move_until = now + MOVE_S
        return move if move and (move.parts or self._reconciler.calm(now, CALM_S)) else None

    def _keep_publishing(self) -> None:
        """Tell the router whenever something changed, and now and then what changes all the time.

        In a thread of its own: a router that is away keeps no shard without a leader.
        """
        while not self._closed.is_set():
            self._unpublished.wait(HEARTBEAT_S)
            self._unpublished.clear()
            try:
                self._publish(self._heartbeats.statuses())
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: it is told again, or another)
                _logger.debug("the router is not told now: %s", error)
                self._router = None
                self._closed.wait(ROUND_S)

    def _publish(self, statuses: Statuses) -> None:
        plan = self._plan
        if plan is None:
            return
        leaders, committed = leaders_of(plan.led, statuses)
        taken = {actor: status["appended_bytes"] for actor, status in statuses.items()}
        told = (plan.version, plan.led, plan.retiring, leaders, committed, taken)
        self._router = self._router or self._household.router()
        self._router.call("publish", *told, timeout_s=CALL_DEADLINE_S)
        self._draining.told(plan.retiring, time.monotonic())

    def _take_over(
        self, this: Try, takeover: TakeOver, statuses: Statuses, decision: int, retire: bool = False
    ) -> None:
        shard = takeover.shard
        if not self._tries.goes_on(this):
            return  # given up before it began
        _logger.info("%s shall lead %s, with %s", takeover.candidate, shard, ", ".join(takeover.members) or "nobody")
        try:
            self._lead(takeover, statuses, decision, retire=retire)
            self._trouble.pop(shard, None)
        except Exception as error:  # noqa: BLE001  (shown in status, and tried again)
            _logger.warning("%s could not be taken over and will be tried again: %s", shard, error)
            if self._tries.goes_on(this):  # else it was given up, and another is under way or has come to its end
                self._trouble[shard] = f"{type(error).__name__}: {error}"
                self._reconciler.failed(shard, time.monotonic())
        finally:
            self._tries.end(this)

    def _lead(
        self, takeover: TakeOver, statuses: Statuses, decision: int, accept_loss: bool = False, retire: bool = False
    ) -> int:
        """Let the candidate lead, or retire the shard, as was decided then; the epoch. Raises what kept it from that.

        ``decision`` is never a later one than that by which this is wanted, or the shard could not be taken up again.
        """
        shard = takeover.shard
        locations = {actor: status["location"] for actor, status in statuses.items()}
        places = []
        for actor in takeover.members:
            kept = statuses[actor]["keeping"].get(shard)
            try:
                id = kept["id"] if kept else self._shards[actor].call("replica_id", shard, timeout_s=CALL_DEADLINE_S)
            except Unavailable:
                if leader_of(shard, statuses) is not None:
                    raise
                continue  # it has just ended: nobody waits for it where nobody leads
            places.append((id, actor, locations[actor]))
        deadline_s = TAKEOVER_DEADLINE_S + (LOSS_GRACE_S if accept_loss else 0.0)
        candidate = self._shards[takeover.candidate]
        how = (accept_loss, decision, retire)
        epoch: int = candidate.call("take_over", shard, places, locations, *how, timeout_s=deadline_s)
        return epoch
