"""What a leader's answer to a producer is as a frame."""

from __future__ import annotations

from ringlog.replication import Accepted, Answer, Deposed, Full, NotLeading, Refused, Submit
from ringlog.wire.frames import Acknowledged, Declined, Reason


def declined(submit: Submit, reason: Reason, message: str, epoch: int = 0, expected: int = -1) -> Declined:
    """The answer that ``submit`` was not taken."""
    return Declined(
        submit.shard, submit.producer, submit.producer_epoch, submit.sequence, reason, message, epoch, expected
    )


def answer_to(submit: Submit, answer: Answer) -> Acknowledged | Declined:
    """What ``answer`` of a `Participant` is to the producer of ``submit``."""
    if isinstance(answer, Accepted):
        return Acknowledged(
            submit.shard,
            submit.producer,
            submit.producer_epoch,
            submit.sequence,
            answer.epoch,
            answer.start,
            answer.end,
        )
    if isinstance(answer, NotLeading):
        return declined(submit, "fenced", "it leads another epoch, or none", epoch=answer.epoch)
    if isinstance(answer, Full):
        message = f"{submit.shard} holds {answer.held_bytes} bytes that are not archived yet"
        return declined(submit, "overloaded", message)
    if isinstance(answer, Refused):
        if answer.expected is None:
            return declined(submit, "rejected", answer.reason)
        return declined(submit, "expected", answer.reason, expected=answer.expected)
    promised = answer.promised if isinstance(answer, Deposed) else 0
    return declined(submit, "unknown", "the leadership ended before a majority answered", epoch=promised)
