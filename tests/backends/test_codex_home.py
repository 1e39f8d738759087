"""The private home of codex: what is kept of the user's, and what is written."""

import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.codex_home import (
    OWN_PROVIDER,
    Home,
    merge,
    nested,
    provider_of,
    read_user,
    settings,
    user_folder,
    variables,
)
from clinvk.config import CodexConfig
from clinvk.errors import UnavailableError


def config(retries: int = 0, **dotted: Any) -> CodexConfig:
    keys = {key.replace("__", "."): value for key, value in dotted.items()}
    return CodexConfig(kind="codex", config=keys, retries=retries, silence_s=60)


@pytest.fixture
def user(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


def test_dotted_keys_become_tables() -> None:
    dotted = {"a.b": 1, "a": {"c": 2}, "a.d.e": None, "f": False}
    assert nested(dotted) == {"a": {"b": 1, "c": 2, "d": {}}, "f": False}


def test_the_upper_table_wins_and_no_table_is_changed() -> None:
    lower: dict[str, Any] = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(lower, {"a": {"b": 9}, "d": {"e": 4}}) == {"a": {"b": 9, "c": 2}, "d": {"e": 4}}
    assert lower == {"a": {"b": 1, "c": 2}, "d": 3}


def test_the_users_folder_is_where_codex_looks() -> None:
    assert user_folder({"CODEX_HOME": "/x", "HOME": "/h"}) == Path("/x")
    assert user_folder({"CODEX_HOME": "", "HOME": "/h"}) == Path("/h/.codex")


def test_only_the_way_to_the_model_is_read(user: Path) -> None:
    (user / "config.toml").write_text(
        """
        model = "m"
        model_provider = "p"
        model_reasoning_effort = "high"
        notify = ["touch", "x"]
        developer_instructions = "CANARY"
        chatgpt_base_url = "http://c"
        cli_auth_credentials_store = "keyring"
        [model_providers.p]
        name = "p"
        [mcp_servers.canary]
        command = "touch"
        """
    )
    assert read_user(user) == {
        "model": "m",
        "model_provider": "p",
        "model_providers": {"p": {"name": "p"}},
        "chatgpt_base_url": "http://c",
        "cli_auth_credentials_store": "keyring",
    }


def test_a_chosen_profile_counts(user: Path) -> None:
    (user / "config.toml").write_text(
        'profile = "work"\nmodel = "m"\n[profiles.work]\nmodel = "n"\nnotify = ["x"]\n'
    )
    assert read_user(user) == {"model": "n"}


def test_no_configuration_is_an_empty_one(user: Path) -> None:
    assert read_user(user) == {}
    (user / "config.toml").write_bytes(b"\xff\xfe")
    assert read_user(user) == {}


def test_a_broken_configuration_is_named(user: Path) -> None:
    (user / "config.toml").write_text("model = ")
    with pytest.raises(UnavailableError, match=r"config\.toml is not TOML"):
        read_user(user)


def test_the_built_in_provider_is_replaced_by_one_that_can_be_limited() -> None:
    user = {"model": "m", "openai_base_url": "http://u"}
    table = settings(user, config(retries=2), {"CODEX_API_KEY": "k"})
    assert (table["model"], table["model_provider"]) == ("m", OWN_PROVIDER)
    provider = provider_of(table)
    assert provider["base_url"] == "http://u"
    assert provider["request_max_retries"] == provider["stream_max_retries"] == 2
    assert provider["stream_idle_timeout_ms"] == 60_000
    assert provider["requires_openai_auth"] is True
    assert provider["env_key"] == "CODEX_API_KEY"
    assert "env_key" not in provider_of(settings({}, config(), {}))
    assert "base_url" not in provider_of(settings({}, config(), {}))


def test_the_users_provider_is_kept_alone_and_limited() -> None:
    user = {
        "model_provider": "p",
        "model_providers": {
            "p": {"name": "P", "env_key": "KEY", "request_max_retries": 9},
            "q": {"name": "Q", "experimental_bearer_token": "secret"},
        },
    }
    table = settings(user, config(), {})
    assert table["model_providers"] == {
        "p": {
            "name": "P",
            "env_key": "KEY",
            "request_max_retries": 0,
            "stream_max_retries": 0,
            "stream_idle_timeout_ms": 60_000,
        }
    }


def test_backends_yaml_has_the_last_word() -> None:
    user = {"model_provider": "p", "model_providers": {"p": {"name": "P"}}, "model": "m"}
    own = config(
        model_provider="own",
        model_providers__own={"name": "O", "stream_max_retries": 3},
        model="n",
        features__shell_tool=True,
    )
    table = settings(user, own, {})
    assert (table["model"], table["model_provider"]) == ("n", "own")
    assert list(table["model_providers"]) == ["own"]
    assert provider_of(table)["stream_max_retries"] == 3
    assert provider_of(table)["request_max_retries"] == 0
    assert table["features"]["shell_tool"] is True
    assert table["features"]["hooks"] is False


def test_a_provider_built_into_codex_is_left_as_it_is() -> None:
    table = settings({"model_provider": "ollama"}, config(), {})
    assert table["model_provider"] == "ollama"
    assert provider_of(table) == {}


def test_the_login_is_always_the_file() -> None:
    table = settings({"cli_auth_credentials_store": "keyring"}, config(), {})
    assert table["cli_auth_credentials_store"] == "file"


def test_a_provider_names_the_variables_it_reads() -> None:
    provider = {"env_key": "KEY", "env_http_headers": {"X-A": "A", "X-B": 7}}
    chosen = {"model_provider": "p", "model_providers": {"p": provider}}
    assert variables(chosen) == ("KEY", "A")
    assert variables({}) == ()
    assert variables({"model_provider": "amazon-bedrock"}) == ("AWS_*",)


def test_a_home_links_to_the_login_and_is_private(user: Path) -> None:
    (user / "auth.json").write_text("login")
    (user / "installation_id").write_text("id")
    home = Home(user, {"model": "m"})
    written = home.codex_home / "config.toml"
    assert (home.codex_home / "auth.json").readlink() == user / "auth.json"
    assert (home.codex_home / "installation_id").read_text() == "id"
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert written.stat().st_mode & 0o777 == 0o600
    home.configure(model_reasoning_summary="auto")
    assert tomllib.loads(written.read_text()) == {"model": "m", "model_reasoning_summary": "auto"}
    assert list(home.work.iterdir()) == []
    home.remove()
    assert not home.root.exists()
    assert (user / "auth.json").read_text() == "login"


def test_a_home_is_outdated_when_the_login_or_the_configuration_changes(user: Path) -> None:
    home = Home(user, {})
    before = home.current
    (user / "auth.json").write_text("login")
    assert (before, home.current) == (True, False)
    home.remove()
    home = Home(user, {})
    before = home.current
    (user / "config.toml").write_text("")
    assert (before, home.current) == (True, False)
    home.remove()
    home = Home(user, {})
    (user / "auth.json").unlink()
    assert not home.current
    home.remove()


def test_a_home_that_cannot_be_filled_is_removed(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(UnicodeEncodeError):
        Home(user, {"model": "\ud800"})
    assert list(folder.iterdir()) == []


def test_a_catalog_can_be_dropped(user: Path) -> None:
    home = Home(user, {})
    first, second = home.add_catalog([{"slug": "a"}]), home.add_catalog([])
    assert first != second
    assert first.read_text() == '{"models": [{"slug": "a"}]}'
    home.drop_catalog(first)
    home.drop_catalog(first)
    assert not first.exists()
    home.remove()
