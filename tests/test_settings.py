from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ringlog.client.current import settings_of
from ringlog.errors import ConfigurationError
from ringlog.schema import Promoted
from ringlog.settings import Settings

SECRET = "canary-7f3a"


def test_keywords_win_over_the_environment_and_that_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ringlog.toml").write_text('shards = 7\nreplicas = 5\nlinger_ms = 3\nroot = "/from/toml"\n')
    (tmp_path / "pyproject.toml").write_text("[tool.ringlog]\nlinger_ms = 9\nflush_age_s = 2.5\nshards = 9\n")
    monkeypatch.setenv("RINGLOG_REPLICAS", "3")
    monkeypatch.setenv("RINGLOG_ROOT", "/from/environment")
    found = Settings(root="/from/keyword")
    assert (found.root, found.replicas, found.shards, found.linger_ms, found.flush_age_s) == (
        "/from/keyword",
        3,
        7,
        3,
        2.5,
    )


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"replicas": 5}, "at least as many shards"),
        ({"root": "gs://bucket/x"}, "local folder or s3://"),
        ({"root": "s3://"}, "local folder or s3://"),
        ({"journal_dir": "s3://bucket/x"}, "local folder"),
        ({"shards": 0}, "shards"),
        (
            {"promote": ["severity_text"]},
            "promote.*'severity_text' cannot be promoted: a record has that column already",
        ),
        ({"promote": ["a;b"]}, "promote.*'a;b' cannot be promoted: a column's name has letters, digits"),
        ({"promote": ["loss float"]}, "promote.*loss cannot be promoted as 'float': one of string, integer, number"),
        ({"promote": ["id", "Id integer"]}, "promote.*'Id' is promoted twice"),
        ({"promote": 5}, "promote"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        settings_of(**{"root": None, **wrong})  # type: ignore[arg-type]


def test_what_is_promoted_is_a_list_or_one_text_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["http.status_code integer", "request_id"]
    listed = Settings(promote=given)  # type: ignore[arg-type]
    assert listed.promoted == (Promoted("http.status_code", "integer"), Promoted("request_id", "string"))
    monkeypatch.setenv("RINGLOG_PROMOTE", " http.status_code  integer, request_id,")
    assert Settings().promoted == listed.promoted == Settings(**listed.public()).promoted
    assert Settings(promote=()).promoted == ()


@pytest.mark.parametrize(("replicas", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_quorum_is_a_majority(replicas: int, quorum: int) -> None:
    assert Settings(shards=5, replicas=replicas).quorum == quorum


def test_secrets_are_shown_nowhere_and_travel_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLOG_S3_SECRET_ACCESS_KEY", SECRET)
    settings = Settings(root="s3://bucket/logs", s3_access_key_id="id")  # type: ignore[arg-type]
    assert settings.storage_options()["AWS_SECRET_ACCESS_KEY"] == SECRET
    for shown in (repr(settings), str(settings), str(settings.public()), settings.model_dump_json()):
        assert SECRET not in shown


def test_a_local_root_needs_no_options_and_becomes_absolute() -> None:
    settings = Settings(root="some/folder")
    assert settings.storage_options() == {}
    assert Path(settings.root).is_absolute()


def test_a_value_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(linger_ms="soon")  # type: ignore[arg-type]
