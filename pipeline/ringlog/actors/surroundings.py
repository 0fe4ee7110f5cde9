"""What the controller needs of whoever brings the other actors: `actors.household`, or a test."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from ringlog.actors.heartbeats import Remote
from ringlog.control import Plan
from ringlog.control.homes import Move


class Household(Protocol):
    """Where the actors live."""

    def summon(self, actor: str, anywhere: bool, groups: Sequence[Collection[str]]) -> Remote | None:
        """The actor where it belongs, found or made; None where it is Ray's to bring it back.

        ``anywhere``: it may begin on another node, without its journals; ``groups`` are the actors that keep a shard
        together, and should live apart. Raises `Unavailable` while it must wait for its journals.
        """

    def restart(self, actor: str) -> None:
        """End the process of the actor, which answers nothing; Ray starts it again where it is, from its journals."""

    def router(self) -> Remote:
        """The router, found or made."""

    def keep_housekeeper(self) -> None:
        """Make the housekeeper, should there be none."""

    def lives(self, actor: str, node: str) -> None:
        """``actor`` says that it runs on ``node``."""

    def leaving(self) -> Collection[str]:
        """The actors whose nodes were told to end, and whose nodes then did."""

    def next_move(self, groups: Sequence[Collection[str]]) -> Move | None:
        """The actor that should live on another node now, to have those of each group better apart."""

    def plan(self) -> Plan:
        """Which shards there should be, and what is left of others, as the metadata store has it now."""

    def change_shards(self, shards: int) -> None:
        """Decide that there should be so many. Raises `ConfigurationError` or `Conflict`."""

    def dismiss(self, actor: str) -> None:
        """End an actor on whose journals nobody counts any more, and remove them."""

    def move(self, move: Move) -> Remote:
        """Let the actor begin anew there, with empty journals; those that it has are removed.

        Raises `Unavailable`, and leaves it where it is, while some shard counts on one of them.
        """
