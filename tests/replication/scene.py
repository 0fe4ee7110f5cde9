"""A few actors, one shard, and a network, a metadata store and a table that move only by hand: the stage of transcripts.

Every actor has a real `Participant`. What it sends lies in the network, in order, until a command delivers it, loses it
or keeps it for later; `meta` and `table` are places in that network too. The docstring of each ``do_`` is the language.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from replication import shorthand
from ringlog.replication import (
    CompareAndSet,
    Confirmation,
    Member,
    Output,
    Participant,
    ReadState,
    ReadStored,
    ReplicaState,
    ShardState,
    Standing,
    Stored,
    Submit,
    Unanswered,
    Violation,
    already_stored,
    outcome,
    to_archive,
)

SHARD = "shard-0"
META, TABLE = "meta", "table"
STORES = (META, TABLE)
DELIVERIES_MAX = 1000
SETTLE_STEPS = 3
INDENT = "  "
GAP = b"(something may be missing)"
_BATCH = re.compile(r"(\w+)(?::(\d+))?/(\d+)")


@dataclass
class Packet:
    """One message on its way. ``ended``: the call it belongs to is over, nobody waits for its answer."""

    source: str
    target: str
    message: Any
    ended: bool = False

    @property
    def kind(self) -> str:
        """Seal, Append, Claim, …"""
        return shorthand.head(self.message).split()[0]

    def __str__(self) -> str:
        return f"{self.source}->{self.target} {shorthand.head(self.message)}"


class Scene:
    """What there is; `execute` does one command and says what came of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.actors: list[str] = []
        self.spares: list[str] = []
        self.quorum = 0
        self.running: dict[str, Participant] = {}
        self.disks: dict[str, ReplicaState] = {}
        self.homes: dict[str, str] = {}  # the actor of each replica id there ever was
        self.isolated: set[str] = set()
        self.network: list[Packet] = []
        self.kept: list[Packet] = []
        self.state: ShardState | None = None
        self.version = 0
        self.rows: list[str] = []
        self.fence = 0
        self.tries = 0
        self.said: list[str] = []

    def execute(self, command: str) -> list[str]:
        """The output of one command."""
        verb, *arguments = shlex.split(command)
        self.said = []
        getattr(self, f"do_{verb}")(*arguments)
        return self.said or ["nothing happens"]

    def do_quietly(self, *command: str) -> None:
        """``quietly deliver all``: of what a command says, only what callers hear and who leads."""
        heard = [line.strip() for line in self.execute(shlex.join(command)) if re.search(" hears | leads ", line)]
        self.said = heard or ["nobody hears anything"]

    # Who there is, and what happens to them.

    def do_actors(self, *names: str) -> None:
        """``actors x y z``: three actors with empty disks; a majority of them is a quorum."""
        for name in names:
            self.actors.append(name)
            self._begin(name, ReplicaState(SHARD, name))
        self.quorum = len(self.actors) // 2 + 1
        self._say(f"{', '.join(self.actors)}: {self.quorum} of {len(self.actors)} are a quorum")

    def do_spare(self, *names: str) -> None:
        """``spare w``: one more actor, which is no member of anything before a takeover wishes so."""
        for name in names:
            self.spares.append(name)
            self._begin(name, ReplicaState(SHARD, name))
        self._say(f"{', '.join(names)}: empty")

    def do_crash(self, actor: str) -> None:
        """``crash x``: its process ends; its disk stays, and what it sent is on its way."""
        del self.running[actor]
        self._say(f"{actor} is gone; whoever waited for it hears nothing")

    def do_restart(self, actor: str) -> None:
        """``restart x``: it begins again from its disk."""
        self._begin(actor, self.disks[actor])
        self._say(self._described(actor))

    def do_wipe(self, actor: str) -> None:
        """``wipe x``: it crashes, loses its disk, and begins with a new journal, so under a new id."""
        again = sum(home == actor for home in self.homes.values()) + 1
        self._begin(actor, ReplicaState(SHARD, f"{actor}{again}"))
        self._say(self._described(actor))

    def do_isolate(self, *actors: str) -> None:
        """``isolate z``: other actors cannot reach it, nor it them. It still reaches the stores."""
        self.isolated.update(actors)
        self._say(f"isolated: {', '.join(sorted(self.isolated))}")

    def do_heal(self) -> None:
        """``heal``: everybody reaches everybody again."""
        self.isolated.clear()
        self._say("everybody reaches everybody")

    def do_tick(self, seconds: str) -> None:
        """``tick 1s``: so much time passes; then every actor is told the time."""
        self.now += float(seconds.removesuffix("s"))
        for actor in list(self.running):
            self._drive(actor, lambda one: one.tick(self.now))

    # What is asked of them.

    def do_takeover(self, candidate: str, *options: str) -> None:
        """``takeover x [with x y w] [accepting-loss]``: x reads the metadata and tries to lead; by default with all."""
        self.tries += 1
        names = [name for name in options if name in self.disks] or self.actors
        wished = [Member(self.disks[name].id, name) for name in names]
        nonce = f"{candidate}-{self.tries}"
        accept_loss = "accepting-loss" in options
        found, version = self.state, self.version
        self._drive(
            candidate,
            lambda one: one.take_over(
                "takeover", found, version, wished, self.quorum, nonce, self.now, GAP, accept_loss
            ),
        )

    def do_append(self, actor: str, batch: str, *words: str) -> None:
        """``append x p:1/0 [since=3] some words``: a record for each word, as sequence 0 of epoch 1 of producer p.

        That is its first epoch, 0, if none is said. ``since``: how far the shard was committed before it began.
        """
        producer, producer_epoch, sequence = _BATCH.fullmatch(batch).groups(default="0")  # type: ignore[union-attr]
        since, words = (words[0][6:], words[1:]) if words[0].startswith("since=") else ("0", words)
        leader = self.running[actor].leader
        epoch = leader.epoch if leader else self.state.epoch if self.state else 0
        numbers = (int(producer_epoch), int(sequence), int(since), len(words))
        submit = Submit(SHARD, epoch, producer, *numbers, "quorum", " ".join(words).encode())
        self._drive(actor, lambda one: one.append(batch, submit, self.now))

    def do_read(self, actor: str) -> None:
        """``read x``: what of the log is not in the table yet? When x has confirmed its epoch, the table is read too."""
        self._drive(actor, lambda one: one.read("read", self.now))

    def do_archive(self, actor: str, *options: str) -> None:
        """``archive x [from N] [unfenced]``: x puts what is committed into the table, from the snapshot that there is now.

        Or from one that ended at N; or from one of before the table was fenced.
        """
        leader = self.running[actor].leader
        if leader is None:
            self._say(f"{actor} leads nothing")
            return
        stored = int(options[options.index("from") + 1]) if "from" in options else len(self.rows)
        fence = 0 if "unfenced" in options else self.fence
        entries = leader.committed_from(leader.trimmed)
        taken = to_archive(SHARD, leader.epoch, entries, leader.trimmed, leader.committed, stored, fence, 1 << 20)
        if not taken:
            closed = f", and it is closed below epoch {fence}" if fence else ""
            self._say(f"{actor} has nothing for a table that holds [0,{stored}){closed}")
            return
        start, end = taken[0].start, taken[-1].end
        accepted = (stored, fence) == (len(self.rows), self.fence)
        if accepted:
            self.rows.extend(word for entry in taken for word in shorthand.words(entry))
        became = outcome(SHARD, start, end, len(self.rows), fence < self.fence, accepted)
        self._say(f"{actor} commits [{start},{end}): {became}; the table holds [0,{len(self.rows)})")

    def do_trim(self, actor: str) -> None:
        """``trim x``: x reads how far the table holds the shard, and to whom it is closed."""
        self._drive(actor, lambda one: one.stored(len(self.rows), self.fence))

    # The network.

    def do_deliver(self, *what: str) -> None:
        """``deliver all``, or ``until Open`` is on its way; ``deliver x->y y->x [Kind]`` what is on these ways, in turn."""
        if what[0] in ("all", "until"):
            for _ in range(DELIVERIES_MAX):
                if not self.network or any(packet.kind in what[1:] for packet in self.network):
                    return
                self._arrive(self.network.pop(0))
            raise AssertionError("this never ends")
        ways, kinds = _sorted_out(what)
        for way in ways:
            for packet in self._taken(way, kinds):
                self._arrive(packet)

    def do_settle(self) -> None:
        """``settle``: everything is delivered, and half seconds pass until nobody's takeover goes on any more."""
        self.do_deliver("all")
        for _ in range(SETTLE_STEPS):
            if any(one.takeover for one in self.running.values()):
                self.do_tick("0.5s")
                self.do_deliver("all")

    def do_lose(self, *what: str) -> None:
        """``lose x->y [Kind]``, or ``all``: it never arrives. A call of a store that was lost ends without an answer."""
        for packet in self._chosen(what):
            self._say(f"{packet}: lost")
            self._end_call(packet)

    def do_keep(self, *what: str) -> None:
        """``keep x->y [Kind]``: it is not lost, but does not arrive now. A call of a store ends without an answer."""
        for packet in self._chosen(what):
            self._say(f"{packet}: kept for later")
            self.kept.append(packet)
            self._end_call(packet)

    def do_duplicate(self, *what: str) -> None:
        """``duplicate x->y [Kind]``: a copy of it is kept for later."""
        for packet in self._chosen(what, leave=True):
            self._say(f"{packet}: a copy is kept for later")
            self.kept.append(Packet(packet.source, packet.target, packet.message, packet.target in STORES))

    def do_late(self) -> None:
        """``late``: what was kept arrives, whoever is isolated by now."""
        kept, self.kept = self.kept, []
        for packet in kept:
            self._arrive(packet, late=True)

    # What an onlooker sees.

    def do_status(self) -> None:
        """``status``: what stands in the metadata store and in the table, and what everybody has and does."""
        self._say(f"meta   {shorthand.standing(self.state, self.version)}")
        self._say(f"table  [0,{len(self.rows)})" + (f", closed below epoch {self.fence}" if self.fence else ""))
        for actor in self.actors + self.spares:
            self._say(f"{actor:<6} {self._described(actor)}")
        if self.network:
            self._say(f"on the way: {', '.join(map(str, self.network))}")

    def do_logs(self) -> None:
        """``logs``: the entries on every disk."""
        for actor in self.actors + self.spares:
            disk = self.disks[actor]
            below = f"(the table has [0,{disk.trimmed})) " if disk.trimmed else ""
            self._say(
                f"{actor:<6} log of epoch {disk.log_epoch}: {below}{shorthand.listed(disk.entries) or 'no entries'}"
            )

    def _described(self, actor: str) -> str:
        disk = self.disks[actor]
        named = f"{disk.id}: " if disk.id != actor else ""
        held = f"{named}promised {disk.promised}, log of epoch {disk.log_epoch} [{disk.trimmed},{shorthand.end(disk)})"
        one = self.running.get(actor)
        if one is None:
            return f"{held}; down"
        if one.leader:
            held += f"; leads {one.leader.epoch}, committed {one.leader.committed}"
        if one.takeover:
            held += f"; takes over {one.takeover.epoch}: {one.takeover.waits_for()}"
        return held

    # How it works.

    def _begin(self, actor: str, disk: ReplicaState) -> None:
        self.disks[actor] = disk
        self.homes[disk.id] = actor
        self.running[actor] = Participant(actor, disk, 1 << 20)

    def _say(self, line: str) -> None:
        self.said.append(line)

    def _chosen(self, what: Iterable[str], leave: bool = False) -> list[Packet]:
        ways, kinds = _sorted_out(what)
        if "all" in kinds:
            ways, kinds = list(dict.fromkeys(f"{packet.source}->{packet.target}" for packet in self.network)), set()
        return [packet for way in ways for packet in self._taken(way, kinds, leave)]

    def _taken(self, way: str, kinds: set[str], leave: bool = False) -> list[Packet]:
        """What is on its way from one to another, or what of that is of these kinds; by default it is there no more."""
        taken = [
            packet
            for packet in self.network
            if way == f"{packet.source}->{packet.target}" and (not kinds or packet.kind in kinds)
        ]
        if not leave:
            self.network = [packet for packet in self.network if not any(packet is one for one in taken)]
        return taken

    def _arrive(self, packet: Packet, late: bool = False) -> None:
        ends = {packet.source, packet.target}
        if not late and len(ends) == 2 and ends & self.isolated and not ends & set(STORES):
            self._say(f"{packet}: lost")
        elif packet.target in STORES:
            self._ask(packet)
        elif packet.target not in self.running:
            self._say(f"{packet}: nobody is there")
        elif hasattr(packet.message, "receiver"):
            self._request(packet)
        else:
            self._say(str(packet))
            self._drive(packet.target, lambda one: one.answer(packet.message, self.now), INDENT)

    def _ask(self, packet: Packet) -> None:
        """A call of a store: carried out whenever it arrives, answered while somebody waits."""
        message = packet.message
        if isinstance(message, CompareAndSet):
            done = message.expected == self.version
            if done:
                self.state, self.version = message.state, self.version + 1
            self._say(f"{packet}: {'done' if done else 'refused'}; {shorthand.standing(self.state, self.version)}")
            answer: Any = Standing(SHARD, message.state.nonce, self.state, self.version)
        elif isinstance(message, ReadState):
            self._say(f"{packet}: {shorthand.standing(self.state, self.version)}")
            answer = Standing(SHARD, message.nonce, self.state, self.version)
        else:
            self.fence = max(self.fence, message.fence or 0)
            self._say(f"{packet}: [0,{len(self.rows)})")
            answer = Stored(SHARD, message.nonce, len(self.rows))
        if not packet.ended:
            self.network.append(Packet(packet.target, packet.source, answer))

    def _end_call(self, packet: Packet) -> None:
        """A call of a store that was lost, there or back, ends all the same, for whoever made it."""
        caller, store = packet.source, packet.target
        if caller in STORES:
            caller, store = store, caller
        if store not in STORES or packet.ended or caller not in self.running:
            return
        packet.ended = True
        message = packet.message
        nonce = message.state.nonce if isinstance(message, CompareAndSet) else message.nonce
        self._drive(caller, lambda one: one.answer(Unanswered(SHARD, nonce), self.now), INDENT)

    def _request(self, packet: Packet) -> None:
        """To a replica: its output leaves once it is stored, so here after that."""
        actor, message = packet.target, packet.message

        def event(one: Participant) -> Output:
            output = one.request(message)
            self.disks[actor] = one.replica.state()
            return output

        self._drive(actor, event, INDENT, packet)

    def _drive(
        self, actor: str, event: Callable[[Participant], Output], indent: str = "", request: Packet | None = None
    ) -> None:
        """Let ``event`` happen to an actor, say what it stored, sent and answered, and how its part changed.

        What a replica makes of its ``request`` is said in one line.
        """
        one = self.running[actor]
        before = (one.leader, one.takeover)
        try:
            output = event(one)
        except Violation as violation:
            del self.running[actor]
            if request is not None:
                self._say(str(request))
            self._say(f"{indent}{actor} stops: {violation}")
            return
        if request is not None:
            done = [f"stores {shorthand.stored(op)}" for op in output.store] + [
                f"answers {shorthand.in_full(one)}" for one in output.send
            ]
            meant = request.message.receiver
            nothing = "nothing comes of it" if meant == one.replica.id else f"dropped, it was meant for {meant}"
            self._say("; ".join([str(request), *(done or [nothing])]))
            self.network.extend(Packet(actor, request.source, answer) for answer in output.send)
        else:
            self._send(actor, output.send, indent)
        for caller, answer in output.reply:
            self._say(f"{indent}{caller} hears {self._answered(answer)}")
        leader, takeover = before
        if leader is not None and one.leader is not leader:
            self._say(f"{indent}{actor} leads {leader.epoch} no more")
        if one.leader is not None and one.leader is not leader:
            self._say(f"{indent}{actor} leads {one.leader.epoch} from {one.leader.end} on")
        if takeover is not None and one.takeover is None and one.leader is leader:
            self._say(f"{indent}{actor} stands down from {takeover.epoch}")

    def _send(self, actor: str, messages: Iterable[Any], indent: str) -> None:
        sent: dict[str, list[str]] = {}
        for message in messages:
            target = self._target(message)
            self.network.append(Packet(actor, target, message))
            sent.setdefault(shorthand.in_full(message), []).append(target)
        for text, targets in sent.items():
            self._say(f"{indent}{actor}->{','.join(targets)} {text}")

    def _target(self, message: Any) -> str:
        if isinstance(message, CompareAndSet | ReadState):
            return META
        return TABLE if isinstance(message, ReadStored) else self.homes[message.receiver]

    def _answered(self, answer: Any) -> str:
        if isinstance(answer, Confirmation):
            hidden = already_stored(SHARD, answer.base, len(self.rows))
            tail = [word for entry in answer.entries for word in shorthand.words(entry)][hidden:]
            return f"epoch {answer.epoch} is current; the table has {self.rows}, the leader {tail}"
        return shorthand.answered(answer)


def _sorted_out(what: Iterable[str]) -> tuple[list[str], set[str]]:
    """``x->y z->y Seal Join``: ways and kinds."""
    what = list(what)
    return [word for word in what if "->" in word], {word for word in what if "->" not in word}
