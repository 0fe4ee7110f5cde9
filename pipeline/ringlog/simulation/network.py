"""The network: single messages that may be lost, doubled and late, and streams that keep their order or break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ringlog.simulation.faults import Hits
from ringlog.simulation.loop import Loop

LATENCY_S = (0.0005, 0.004)


class Network:
    """Carries messages between named nodes. What is cut off, and what is lost, doubled and late, can be set."""

    def __init__(self, loop: Loop, hits: Hits) -> None:
        self._loop = loop
        self._hits = hits
        self.blocked: dict[tuple[str, str], str] = {}
        self.loss = 0.0
        self.duplication = 0.0
        self.reordering = 0.0
        self.delay_s = 0.0

    def send(self, source: str, target: str, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        """Perhaps let ``deliver(*arguments)`` happen at ``target``, once or twice."""
        if self.cuts(source, target):
            return
        draw = self._loop.draw
        self._loop.after(self.latency(), what, deliver, *arguments)
        if self.duplication and draw.random() < self.duplication:
            self._hits.hit("duplication")
            self._loop.after(self.latency() + draw.random(), f"{what} again", deliver, *arguments)

    def heal(self) -> None:
        """Nothing fails any more."""
        self.blocked.clear()
        self.loss = self.duplication = self.reordering = self.delay_s = 0.0

    def cuts(self, source: str, target: str) -> bool:
        """Whether a message that leaves now is lost."""
        if (source, target) in self.blocked:
            self._hits.hit(self.blocked[source, target])
            return True
        if self.loss and self._loop.draw.random() < self.loss:
            self._hits.hit("loss")
            return True
        return False

    def latency(self) -> float:
        """How long a message that leaves now is on its way."""
        draw = self._loop.draw
        latency = draw.uniform(*LATENCY_S)
        if self.reordering and draw.random() < self.reordering:
            self._hits.hit("reordering")
            latency += draw.random() * 0.3
        if self.delay_s:
            self._hits.hit("delay")
            latency += draw.random() * self.delay_s
        return latency


class Stream:
    """Two ends that exchange frames in order, until one is lost: then it is broken, and ``broken`` hears of that."""

    def __init__(self, network: Network, loop: Loop, client: str, server: str, broken: Callable[[], None]) -> None:
        self._network = network
        self._loop = loop
        self._client, self._server = client, server
        self._broken = broken
        self._arrives = {client: 0.0, server: 0.0}
        self.open = True

    def __str__(self) -> str:
        return f"{self._client}<->{self._server}"

    def to_server(self, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        """A frame from the client."""
        self._send(self._client, self._server, what, deliver, *arguments)

    def to_client(self, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        """A frame from the server."""
        self._send(self._server, self._client, what, deliver, *arguments)

    def cut(self) -> None:
        """The stream breaks; the client notices after a while."""
        if self.open:
            self.open = False
            self._loop.after(
                self._loop.draw.uniform(0.01, 2.0), f"{self._client} notices a broken stream", self._broken
            )

    def _send(self, source: str, target: str, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        if not self.open:
            return
        if self._network.cuts(source, target):
            self.cut()
            return
        arrives = max(self._loop.now + self._network.latency(), self._arrives[target])
        self._arrives[target] = arrives
        self._loop.at(arrives, what, self._deliver, deliver, *arguments)

    def _deliver(self, deliver: Callable[..., None], *arguments: Any) -> None:
        if self.open:
            deliver(*arguments)
