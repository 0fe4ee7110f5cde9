"""One thing that was looked at: whether it is well, what was seen, and what to do."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """``skip``: it does not apply here, or something else must be well before it can be looked at."""

    name: str
    state: State
    seen: str
    to_do: str = ""


def listens(host: str, port: int, timeout_s: float = 3.0) -> str | None:
    """None when somebody listens there; else why nobody could be reached."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError as error:
        return str(error)
    return None
