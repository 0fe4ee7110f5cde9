"""Which journals a node says it has, and which are removed there."""

from __future__ import annotations

from pathlib import Path

from ringlog.actors.homes import Kept, _ids_of_journals, _kept, _remove_journals
from ringlog.actors.household import _needed
from ringlog.replication import Member, Promise, ShardState
from ringlog.storage import Journal


def journal(folder: Path, actor: str, shard: str) -> str:
    made = Journal(folder / actor / shard, shard, "group", 1000)
    made.close()
    return made.state.id


def test_a_node_names_the_journals_that_read_back_by_who_they_are(tmp_path: Path) -> None:
    ids = {(actor, shard): journal(tmp_path, actor, shard) for actor in ("shard-0", "shard-1") for shard in ("a", "b")}
    found = {actor: sorted(names) for actor, names in _ids_of_journals(str(tmp_path)).items()}
    assert found == {
        actor: sorted(id for (whose, _), id in ids.items() if whose == actor) for actor in ("shard-0", "shard-1")
    }
    state = tmp_path / "shard-0" / "a" / "state.json"
    state.write_bytes(state.read_bytes().replace(ids["shard-0", "a"].encode(), b"0" * 32))
    assert _ids_of_journals(str(tmp_path))["shard-0"] == [ids["shard-0", "b"]], "it is nobody any more"
    assert _ids_of_journals(str(tmp_path / "nowhere")) == {}


def test_what_was_set_aside_for_somebody_to_look_at_is_not_removed(tmp_path: Path) -> None:
    for shard in ("a", "b"):
        journal(tmp_path, "shard-0", shard)
    (tmp_path / "shard-0" / "b" / "lost-1").mkdir()
    folder = str(tmp_path / "shard-0")
    _remove_journals(folder, _kept(folder))
    assert [path.name for path in (tmp_path / "shard-0").iterdir()] == ["b"]


def test_only_the_journals_that_may_go_are_removed_and_none_that_was_gone_on_with_meanwhile(tmp_path: Path) -> None:
    ids = {shard: journal(tmp_path, "shard-0", shard) for shard in ("a", "b", "c")}
    folder = str(tmp_path / "shard-0")
    may_go = [one for one in _kept(folder) if one[0] != "c"]
    assert sorted(may_go) == [("a", ids["a"], 0), ("b", ids["b"], 0)]
    again = Journal(tmp_path / "shard-0" / "b", "b", "group", 1000)
    again.apply([Promise(1)])
    again.close()
    _remove_journals(folder, may_go)
    assert sorted(_kept(folder)) == [("b", ids["b"], 1), ("c", ids["c"], 0)]


def test_a_journal_is_needed_by_the_epoch_that_opened_with_it_and_by_one_that_may_still_open_with_it() -> None:
    def state(epoch: int, what: str, *ids: str) -> ShardState:
        members = tuple(Member(id, "shard-0") for id in ids)
        return ShardState("a", epoch, what, "shard-1", "nonce", members, 2)  # type: ignore[arg-type]

    mine = Kept("a", "mine", 4)
    assert _needed(mine, state(3, "open", "mine"))
    assert _needed(mine, state(4, "claimed", "other"))
    assert not _needed(mine, state(5, "claimed", "other"))
    assert not _needed(mine, state(4, "open", "other"))
    assert not _needed(mine, state(4, "retired"))
    assert not _needed(mine, None)
