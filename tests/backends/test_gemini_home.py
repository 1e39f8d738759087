"""The private home of gemini, and the login that is carried into it."""

import json
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.gemini_home import (
    CALL_TIMEOUT_MS,
    CREDENTIALS,
    EFFORTS,
    Home,
    Login,
    find_login,
)


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The user's home, with an empty .gemini folder."""
    path = tmp_path / "user"
    (path / ".gemini").mkdir(parents=True)
    return path


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "temp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def write_settings(user: Path, text: str) -> None:
    (user / ".gemini" / "settings.json").write_text(text)


def look(user: Path, **env: str) -> Login:
    return find_login({"HOME": str(user), **env})


def choose(user: Path, method: str) -> None:
    write_settings(user, json.dumps({"security": {"auth": {"selectedType": method}}}))


def log_in_to_google(user: Path) -> Path:
    path = user / ".gemini" / "oauth_creds.json"
    path.write_text("{}")
    return path


# --- which login ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "method"),
    [
        ({"GOOGLE_GENAI_USE_GCA": "true", "GOOGLE_GENAI_USE_VERTEXAI": "true"}, "oauth-personal"),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "true", "GEMINI_API_KEY": "k"}, "vertex-ai"),
        ({"GOOGLE_GEMINI_BASE_URL": "http://x", "GEMINI_API_KEY": "k"}, "gateway"),
        ({"GEMINI_API_KEY": "k"}, "gemini-api-key"),
        ({"CLOUD_SHELL": "true"}, "compute-default-credentials"),
        ({"GEMINI_CLI_USE_COMPUTE_ADC": "true"}, "compute-default-credentials"),
        ({}, None),
    ],
)
def test_the_environment_chooses_in_geminis_order(
    user: Path, env: dict[str, str], method: str | None
) -> None:
    assert look(user, **env).method == method


def test_the_users_choice_comes_before_the_environment(user: Path) -> None:
    choose(user, "oauth-personal")
    assert look(user, GEMINI_API_KEY="k").method == "oauth-personal"


def test_the_choice_is_found_among_comments(user: Path) -> None:
    write_settings(
        user,
        """{ // mine
        "x": "http://not/*a comment*/",
        /* "security": 3 */ "security": {"auth": {"selectedType": "vertex-ai", "enforcedType": "e"}}
        }""",
    )
    login = look(user, GOOGLE_API_KEY="k")
    assert dict(login.auth) == {"selectedType": "vertex-ai", "enforcedType": "e"}


def test_the_choice_of_older_settings_counts(user: Path) -> None:
    write_settings(user, '{"selectedAuthType": "gemini-api-key"}')
    assert look(user).method == "gemini-api-key"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"security": 3}', '{"security": {"auth": []}}'])
def test_settings_that_cannot_be_read_choose_nothing(user: Path, text: str) -> None:
    write_settings(user, text)
    assert look(user).method is None


def test_a_google_login_without_a_choice_is_one(user: Path) -> None:
    log_in_to_google(user)
    assert look(user).method == "oauth-personal"


def test_geminis_own_home_variable_is_followed(user: Path, tmp_path: Path) -> None:
    choose(user, "vertex-ai")
    login = find_login({"HOME": str(tmp_path), "GEMINI_CLI_HOME": str(user)})
    assert login.method == "vertex-ai"
    assert login.folder == user / ".gemini"


# --- whether it is there -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "env", "missing"),
    [
        ("oauth-personal", {}, "nobody is logged in"),
        ("oauth-personal", {"GOOGLE_APPLICATION_CREDENTIALS": "/x"}, None),
        (
            "oauth-personal",
            {"GOOGLE_GENAI_USE_GCA": "true", "GOOGLE_CLOUD_ACCESS_TOKEN": "t"},
            None,
        ),
        ("vertex-ai", {}, "GOOGLE_CLOUD_LOCATION"),
        ("vertex-ai", {"GOOGLE_CLOUD_PROJECT": "p"}, "GOOGLE_CLOUD_LOCATION"),
        ("vertex-ai", {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "l"}, None),
        ("vertex-ai", {"GOOGLE_API_KEY": "k"}, None),
        ("gemini-api-key", {"GEMINI_API_KEY": "k"}, None),
        ("gateway", {}, None),
    ],
)
def test_what_a_login_lacks_is_named(
    user: Path, method: str, env: dict[str, str], missing: str | None
) -> None:
    choose(user, method)
    login = look(user, **env)
    assert not login.hidden
    if missing is None:
        assert login.missing is None
    else:
        assert login.missing is not None
        assert missing in login.missing


def test_a_google_login_on_file_is_there(user: Path) -> None:
    choose(user, "oauth-personal")
    log_in_to_google(user)
    assert look(user).missing is None


def test_a_key_that_may_be_in_the_keyring_is_hidden_and_not_missing(user: Path) -> None:
    choose(user, "gemini-api-key")
    assert look(user).hidden
    assert look(user).missing is None


def test_an_encrypted_google_login_is_hidden(user: Path) -> None:
    choose(user, "oauth-personal")
    login = look(user, GEMINI_FORCE_ENCRYPTED_FILE_STORAGE="true")
    assert login.hidden
    assert login.missing is None


def test_no_choice_at_all_is_missing(user: Path) -> None:
    assert look(user).missing == "no way to log in is chosen"


# --- the user's .env -----------------------------------------------------------------------


def test_the_users_env_file_is_read_as_gemini_reads_it(user: Path) -> None:
    (user / ".gemini" / ".env").write_text(
        "# GEMINI_API_KEY=old\n"
        "export GEMINI_API_KEY = 'k#1' # mine\n"
        'GOOGLE_CLOUD_PROJECT="a\\nb"\n'
        "GOOGLE_CLOUD_LOCATION=here # or there\n"
        "GEMINI_SYSTEM_MD=/etc/passwd\n"
        "PATH=/bad\n"
    )
    login = look(user)
    assert dict(login.extra_env) == {
        "GEMINI_API_KEY": "k#1",
        "GOOGLE_CLOUD_PROJECT": "a\nb",
        "GOOGLE_CLOUD_LOCATION": "here",
    }
    assert login.method == "gemini-api-key"


def test_the_environment_comes_before_the_env_file(user: Path) -> None:
    (user / ".gemini" / ".env").write_text("GEMINI_API_KEY=file")
    assert look(user, GEMINI_API_KEY="real").extra_env == ()


def test_the_env_file_of_the_home_is_the_second_choice(user: Path) -> None:
    (user / ".env").write_text("GEMINI_API_KEY=home\nMY_SECRET=x")
    assert dict(look(user).extra_env) == {"GEMINI_API_KEY": "home"}
    (user / ".gemini" / ".env").write_text("GEMINI_API_KEY=own")
    assert dict(look(user).extra_env) == {"GEMINI_API_KEY": "own"}


# --- the model -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "env", "model"),
    [
        (None, {}, "pro"),
        ("auto", {}, "pro"),
        ("auto-gemini-3", {}, "pro"),
        ("gemini-2.5-flash", {}, "gemini-2.5-flash"),
        ("gemini-2.5-flash", {"GEMINI_MODEL": "flash"}, "flash"),
        (3, {}, "pro"),
    ],
)
def test_the_default_model_is_the_users_or_a_concrete_one(
    user: Path, name: Any, env: dict[str, str], model: str
) -> None:
    write_settings(user, json.dumps({"model": {"name": name}}))
    assert look(user, **env).model == model


# --- the private home ----------------------------------------------------------------------


@pytest.fixture
def home(user: Path) -> Iterator[Home]:
    made = Home(look(user, GEMINI_API_KEY="k"), attempts=3)
    yield made
    made.remove()


def own_settings(home: Home) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((home.root / ".gemini" / "settings.json").read_text())
    return value


def test_the_home_is_for_its_owner_alone(home: Home) -> None:
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_the_settings_carry_the_login_and_the_retries(home: Home) -> None:
    settings = own_settings(home)
    assert settings["security"]["auth"] == {"selectedType": "gemini-api-key"}
    assert settings["general"]["maxAttempts"] == 3
    assert settings["tools"]["core"] == ["none"]
    assert settings["model"]["name"] == "pro"


def test_no_secret_is_written_to_the_home(user: Path) -> None:
    (user / ".gemini" / ".env").write_text("GEMINI_API_KEY=very-secret")
    home = Home(look(user), attempts=1)
    for path in home.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert "very-secret" not in path.read_text()


def test_a_refreshed_token_lands_in_the_users_own_file(user: Path) -> None:
    own = log_in_to_google(user)
    home = Home(look(user), attempts=1)
    (home.root / ".gemini" / "oauth_creds.json").write_text('{"new": 1}')
    home.remove()
    assert own.read_text() == '{"new": 1}'
    assert not home.root.exists()


def test_a_login_made_later_is_seen_through_the_link(home: Home, user: Path) -> None:
    link = home.root / ".gemini" / "oauth_creds.json"
    assert not link.exists()
    log_in_to_google(user)
    assert link.read_text() == "{}"
    assert {path.name for path in link.parent.iterdir() if path.is_symlink()} == set(CREDENTIALS)


def test_the_child_is_told_to_stay_in_the_home(home: Home) -> None:
    for name in ("GEMINI_CLI_HOME", "GEMINI_SYSTEM_MD", "TMPDIR"):
        assert Path(home.env[name]).is_relative_to(home.root)
        assert Path(home.env[name]).exists()
    assert (home.root / "system.md").read_text().strip() == ""


@pytest.mark.parametrize("effort", [None, "", "extreme", "../x"])
def test_an_unknown_effort_has_a_plain_folder(home: Home, effort: str | None) -> None:
    folder = home.folder(effort)
    assert [path.name for path in folder.iterdir()] == [".gemini"]
    assert json.loads((folder / ".gemini" / "settings.json").read_text()) == {}


@pytest.mark.parametrize("effort", sorted(EFFORTS))
def test_an_effort_has_a_folder_with_the_thinking_of_each_family(home: Home, effort: str) -> None:
    text = (home.folder(effort) / ".gemini" / "settings.json").read_text()
    overrides = json.loads(text)["modelConfigs"]["customOverrides"]
    thinking = {
        override["match"]["model"]: override["modelConfig"]["generateContentConfig"][
            "thinkingConfig"
        ]
        for override in overrides
    }
    assert 512 <= thinking["chat-base-2.5"]["thinkingBudget"] <= 24_576
    assert thinking["chat-base-3"]["thinkingLevel"] in {"LOW", "HIGH"}


def test_a_session_with_tools_has_a_folder_of_its_own(home: Home) -> None:
    access = {"httpUrl": "http://127.0.0.1:1/x", "headers": {"S": "secret"}}
    first = home.folder_with_tools("low", "srv", access, must_call=True)
    second = home.folder_with_tools(None, "srv", access, must_call=False)
    assert first != second
    assert first.name == second.name  # which the model is told
    settings = json.loads((first / ".gemini/settings.json").read_text())
    assert settings["tools"]["core"] == ["none", "mcp_*"]
    assert settings["mcp"] == {"allowed": ["srv"]}
    server = {**access, "trust": True, "timeout": CALL_TIMEOUT_MS}
    assert settings["mcpServers"] == {"srv": server}
    assert len(settings["modelConfigs"]["customOverrides"]) == 3
    settings = json.loads((second / ".gemini/settings.json").read_text())
    assert settings["modelConfigs"]["customOverrides"] == []
    home.drop(first)
    assert not first.parent.exists()
    assert second.exists()


def test_the_class_of_an_error_is_read_from_its_report(home: Home) -> None:
    for number, (name, message) in enumerate(
        [("Error", "terminated"), ("ModelNotFoundError", "no such model")]
    ):
        report = {
            "error": {"message": message, "stack": f"{name}: {message}\n    at x"},
            "context": ["x" * 100_000],
        }
        path = home.root / "tmp" / f"gemini-client-error-Turn-{number}.json"
        path.write_text(json.dumps(report, indent=2))
    (home.root / "tmp" / "gemini-client-error-broken.json").write_text('{"error": 3}')
    (home.root / "tmp" / "gemini-client-error-empty.json").write_text("")
    assert home.error_class("no such model") == "ModelNotFoundError"
    assert home.error_class("terminated") == "Error"
    assert home.error_class("never said") is None


def test_a_sweep_removes_chats_and_reports_alone(home: Home) -> None:
    chat = home.root / ".gemini" / "tmp" / "p" / "chats" / "session-1.jsonl"
    chat.parent.mkdir(parents=True)
    chat.touch()
    report = home.root / "tmp" / "gemini-client-error-1.json"
    report.touch()
    home.sweep()
    assert not chat.exists()
    assert not report.exists()
    assert (home.root / ".gemini" / "settings.json").exists()


def test_a_home_that_cannot_be_filled_leaves_nothing(
    user: Path, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "symlink_to", fail)
    with pytest.raises(OSError, match="disk full"):
        Home(look(user), attempts=1)
    assert list(temp.iterdir()) == []
