"""recover: what each shard waits for; and, on an operator's word alone, going on without journals that are lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from ringlog.actors import cluster
from ringlog.cli import show
from ringlog.cli.status import gap_line
from ringlog.errors import ConfigurationError, Conflict

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
    shards = running.status()["shards"]
    if json:
        show.json_line({"shards": shards})
    else:
        for name, shard in shards.items():
            for line in explanation(name, shard):
                show.console.print(line, soft_wrap=True)
    if not all(_led(shard) for shard in shards.values()):
        raise typer.Exit(1)


def explanation(name: str, shard: dict[str, Any]) -> Iterator[Text]:
    """How the shard is, and what to do where it needs somebody."""
    missing = ", ".join(f"{one['actor']}" for one in shard["missing"])
    waits_for = show.plain(shard["waits_for"] or shard["trouble"] or "its controller, which tries it soon")
    if shard["condition"] == "complete":
        yield Text(f"{name} is led by {shard['leader']} in epoch {shard['epoch']}, complete", style="green")
    elif shard["condition"] == "incomplete":
        lead = f"{name} is led by {shard['leader']} in epoch {shard['epoch']}, with {shard['answering']} members"
        yield Text(f"{lead}; it is completed once all answer{f' (missing: {missing})' if missing else ''}", "yellow")
    elif shard["condition"] == "opening":
        yield Text(f"{name} is about to open; it waits for {waits_for}", style="yellow")
    else:
        yield from _unavailable(name, shard)
    for epoch, start in shard["gaps"] or ():
        yield Text(f"  {gap_line(name, epoch, start)}", style="yellow")


def _unavailable(name: str, shard: dict[str, Any]) -> Iterator[Text]:
    needed = f"{shard['answering']} of the {shard['needed']} journals that it needs can be read"
    yield Text(f"{name} is UNAVAILABLE: {needed}", style="bold red")
    for one in shard["missing"]:
        yield Text(f"  {one['actor']}: {_WHY[one['why']]} (journal {one['id']})", style="red")
    if shard["waits_for"]:
        yield Text(f"  Its takeover waits for {show.plain(shard['waits_for'])}.")
    yield Text("  Start those nodes again, with their disks: that loses nothing, and the shard then opens by itself.")
    yield Text("  Only if they never come back, and what they alone hold may be lost for good:")
    yield Text(f"    ringlog recover --accept-loss {name}", style="bold")


def _accept(running: cluster.Cluster, name: str, yes: bool, json: bool) -> None:
    shards = running.status()["shards"]
    if name not in shards:
        raise ConfigurationError(f"there is no {name}: the shards are {', '.join(shards)}")
    before = shards[name]
    if before["leader"] is not None:
        raise Conflict(f"{name} is led by {before['leader']}: there is nothing to give up. See `ringlog recover`")
    for line in explanation(name, before):
        show.errors.print(line, soft_wrap=True)
    if not yes:
        show.errors.print("Where nodes are gone, as many shard actors as it takes begin anew on others, with nothing.")
        question = f"Open {name} without what does not answer within 10 s, and lose for good what only that holds?"
        typer.confirm(question, abort=True, err=True)
    with show.errors.status(f"opening {name}: its members have a last chance to answer"):
        epoch = running.accept_loss(name)
    after = running.status()
    gaps = after["shards"][name]["gaps"]
    new = None if gaps is None else [gap for gap in gaps if gap not in (before["gaps"] or [])]
    if json:
        show.json_line({"shard": name, "epoch": epoch, "gaps": new})
        return
    show.console.print(f"{name} is open, in epoch {epoch}", highlight=False)
    if new is None:
        show.console.print(f"what was lost cannot be shown now: {show.plain(after['metadata_trouble'])}", markup=False)
    elif not new:
        show.console.print("nothing was lost: enough of its journals answered after all")
    for gap_epoch, start in new or ():
        show.console.print(Text(gap_line(name, gap_epoch, start), style="yellow"), soft_wrap=True)
        show.console.print("every reader shows a record there whose event_name is 'ringlog.gap'", highlight=False)


def _led(shard: dict[str, Any]) -> bool:
    """Whether records can be written to it now: a leader that reaches no majority acknowledges nothing."""
    return shard["leader"] is not None and shard["condition"] != "unavailable"


COMMANDS = (recover,)
