"""Which journals a node says it has, and which are removed there."""

from __future__ import annotations

from pathlib import Path

from ringlog.actors.homes import _ids_of_journals, _remove_journals
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
    _remove_journals(str(tmp_path / "shard-0"))
    assert [path.name for path in (tmp_path / "shard-0").iterdir()] == ["b"]
