"""recover: what each shard waits for; and, on an operator's word alone, going on without journals that are lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from ringlog.actors import cluster
from ringlog.cli import show
from ringlog.cli.status import LET_IT_READ, away_line, gap_line, plan_line
from ringlog.errors import ConfigurationError, Conflict, Unavailable

_WHY = {
    "no answer": "its shard actor does not answer",
    "another journal": "its shard actor came back with another journal: this one is elsewhere, set aside, or gone",
}


def recover(
    accept_loss: Annotated[
        str | None, typer.Option(metavar="SHARD", help="Open this shard without the journals that are missing.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say of every shard whether it is led and complete, or what it waits for; exit code 0 when all can be written."""
    cluster.join_ray(start_local=False)
    running = cluster.connect()
    if accept_loss is not None:
        _accept(running, accept_loss, yes, json)
        return
    found = running.status()
    shards = found["shards"]
    if json:
        show.json_line({name: found[name] for name in ("plan_trouble", "away", "shards")})
    else:
        for line in explained(found, shards):
            show.console.print(line, soft_wrap=True)
    if not shards or not all(_led(shard) for shard in shards.values()):
        raise typer.Exit(1)


def explained(found: dict[str, Any], names: Iterable[str]) -> Iterator[Text]:
    """How each of these shards is, what keeps the controller from doing its part, and what to do."""
    shards, away = found["shards"], found["away"]
    if found["plan_trouble"]:
        yield Text(plan_line(found), style="yellow" if shards else "bold red")
    if not shards:
        yield Text(f"  {LET_IT_READ}.")
    told: set[str] = set()
    for name in names:
        yield from _explanation(name, found)
        told.update(one["actor"] for one in shards[name]["missing"])
    for actor, why in away.items():
        if actor not in told:
            yield Text(away_line(actor, why), style="yellow")


def _explanation(name: str, found: dict[str, Any]) -> Iterator[Text]:
    shard, away = found["shards"][name], found["away"]
    unavailable = shard["condition"] == "unavailable"
    yield _condition(name, shard)
    for one in shard["missing"]:
        actor = one["actor"]
        if unavailable or actor in away:
            why = away_line(actor, away.get(actor, _WHY[one["why"]]))
            yield Text(f"  {why} (journal {one['id']})", style="red" if unavailable else "yellow")
    if unavailable:
        yield from _to_do(name, found)
    for epoch, start in shard["gaps"] or ():
        yield Text(f"  {gap_line(name, epoch, start)}", style="yellow")


def _condition(name: str, shard: dict[str, Any]) -> Text:
    if shard["condition"] == "complete":
        lead = f"{name} is led by {shard['leader']} in epoch {shard['epoch']}, complete"
        if shard["crowded"] and shard["answering"] < len(shard["members"]) + len(shard["crowded"]):
            crowded = ", ".join(shard["crowded"])
            return Text(
                f"{lead} with {shard['answering']} copies: add a node, and {crowded} moves there", style="green"
            )
        return Text(lead, style="green")
    if shard["condition"] == "incomplete":
        lead = f"{name} is led by {shard['leader']} in epoch {shard['epoch']}, with {shard['answering']} members"
        missing = ", ".join(one["actor"] for one in shard["missing"])
        return Text(f"{lead}; it is completed once all answer{f' (missing: {missing})' if missing else ''}", "yellow")
    if shard["condition"] == "opening":
        waits_for = show.plain(shard["waits_for"] or shard["trouble"] or "its controller, which tries it soon")
        return Text(f"{name} is about to open; it waits for {waits_for}", style="yellow")
    needed = f"{shard['answering']} of the {shard['needed']} journals that it needs can be read"
    return Text(f"{name} is UNAVAILABLE: {needed}", style="bold red")


def _to_do(name: str, found: dict[str, Any]) -> Iterator[Text]:
    """Of an unavailable shard. Whatever can be seen to without a loss comes first."""
    shard = found["shards"][name]
    if shard["waits_for"]:
        yield Text(f"  Its takeover waits for {show.plain(shard['waits_for'])}.")
    if found["plan_trouble"] or any(one["actor"] in found["away"] for one in shard["missing"]):
        start = "See first to what is said above, and start nodes that are gone again"
        only = "As a last resort, only if the journals never come back whatever is done"
    else:
        start, only = "Start those nodes again", "Only if they never come back"
    yield Text(f"  {start}, with their disks: that loses nothing, and the shard then opens by itself.")
    yield Text(f"  {only}, and what they alone hold may be lost for good:")
    yield Text(f"    ringlog recover --accept-loss {name}", style="bold")


def _accept(running: cluster.Cluster, name: str, yes: bool, json: bool) -> None:
    found = running.status()
    shards = found["shards"]
    if not shards:
        raise Unavailable(plan_line(found))
    if name not in shards:
        raise ConfigurationError(f"there is no {name}: the shards are {', '.join(shards)}")
    before = shards[name]
    if before["leader"] is not None:
        raise Conflict(f"{name} is led by {before['leader']}: there is nothing to give up. See `ringlog recover`")
    for line in explained(found, [name]):
        show.errors.print(line, soft_wrap=True)
    if not yes:
        show.errors.print("Where nodes are gone, as many shard actors as it takes begin anew on others, with nothing.")
        question = f"Open {name} without what does not answer within 10 s, and lose for good what only that holds?"
        typer.confirm(question, abort=True, err=True)
    with show.errors.status(f"opening {name}: its members have a last chance to answer"):
        epoch = running.accept_loss(name)
    after = running.status()
    gaps = after["shards"].get(name, {"gaps": None})["gaps"]  # a controller that has just begun knows of none
    new = None if gaps is None else [gap for gap in gaps if gap not in (before["gaps"] or [])]
    if json:
        show.json_line({"shard": name, "epoch": epoch, "gaps": new})
        return
    show.console.print(f"{name} is open, in epoch {epoch}", highlight=False)
    if new is None:
        show.console.print(
            f"what was lost cannot be shown now: {show.plain(after['metadata_trouble'] or after['plan_trouble'])}",
            markup=False,
        )
    elif not new:
        show.console.print("nothing was lost: enough of its journals answered after all")
    for gap_epoch, start in new or ():
        show.console.print(Text(gap_line(name, gap_epoch, start), style="yellow"), soft_wrap=True)
        show.console.print("every reader shows a record there whose event_name is 'ringlog.gap'", highlight=False)


def _led(shard: dict[str, Any]) -> bool:
    """Whether records can be written to it now: a leader that reaches no majority acknowledges nothing."""
    return shard["leader"] is not None and shard["condition"] != "unavailable"


COMMANDS = (recover,)
