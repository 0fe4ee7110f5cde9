"""The data plane: Arrow Flight streams that carry records between producers, leaders, replicas and readers."""

from ringlog.wire.answers import answer_to, declined
from ringlog.wire.flight import Link, Pulse, Server, Stream, TailReply, follow, open_stream, read_tail
from ringlog.wire.frames import Acknowledged, Declined, decode, encode
from ringlog.wire.inbox import Inbox

__all__ = [
    "Acknowledged",
    "Declined",
    "Inbox",
    "Link",
    "Pulse",
    "Server",
    "Stream",
    "TailReply",
    "answer_to",
    "declined",
    "decode",
    "encode",
    "follow",
    "open_stream",
    "read_tail",
]
