from pathlib import Path

import pytest

from clinvk import config
from clinvk.config import ClaudeConfig, CodexConfig, Config, ConfigError

ROOT = Path(__file__).parents[1]


def parse(text: str, **env: str) -> Config:
    return config.parse(text, name="b.yaml", env=env)


def test_the_example_equals_the_built_in_defaults() -> None:
    assert config.load(ROOT / "backends.yaml").config == config.default()


def test_an_empty_file_is_the_default() -> None:
    assert parse("") == config.default()


def test_a_command_may_be_a_word_or_words() -> None:
    parsed = parse(
        "backends:\n  a: {kind: claude, command: /opt/claude}\n"
        "  b: {kind: codex, command: [node, codex.js]}\n"
    )
    assert isinstance(parsed.backends["a"], ClaudeConfig)
    assert parsed.backends["a"].command == ["/opt/claude"]
    assert isinstance(parsed.backends["b"], CodexConfig)
    assert parsed.backends["b"].command == ["node", "codex.js"]


def test_default_aliases_are_kept_for_the_backends_that_exist() -> None:
    assert parse("backends:\n  codex: {kind: codex}\n").aliases == {
        "gpt-*": "codex/{model}",
        "o[1-9]*": "codex/{model}",
    }


def test_variables_are_expanded_in_values() -> None:
    parsed = parse("server:\n  host: ${WHERE}\n", WHERE="::1")
    assert parsed.server.host == "::1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  port: eighty\n", "b.yaml:2: server.port: input should be a valid integer"),
        ("server:\n  prot: 1\n", "b.yaml:2: server.prot: is not a known key"),
        ("server:\n  store: {paht: x}\n", "b.yaml:2: server.store.paht: is not a known key"),
        ("server:\n  store: {path: ''}\n", "b.yaml:2: server.store.path: string should have"),
        ("sever: {}\n", "b.yaml:1: sever: is not a known key"),
        ("backends:\n  c:\n    kind: claud\n", "b.yaml:2: backends.c: kind must be acp, claude, "),
        ("backends:\n  c:\n    model: x\n", "b.yaml:2: backends.c: kind is missing"),
        (
            "backends:\n  c:\n    kind: claude\n    retires: 1\n",
            "b.yaml:4: backends.c.retires: is not a known key",
        ),
        (
            "backends:\n  c:\n    kind: claude\n    command: []\n",
            "b.yaml:4: backends.c.command: must name a program",
        ),
        ("backends:\n  'a b': {kind: echo}\n", "b.yaml:1: backends: 'a b' must be letters"),
        ("backends: {}\n", "b.yaml:1: backends: dictionary should have at least 1 item"),
        (
            "routes:\n  x:\n    targets:\n    - codex\n    - nope/y\n",
            "b.yaml:5: routes.x.targets.1: 'nope/y' names no backend; there are:",
        ),
        ("routes:\n  x: []\n", "b.yaml:2: routes.x.targets: list should have at least 1 item"),
        (
            "routes:\n  x: [codex, codex]\n",
            "b.yaml:2: routes.x.targets: 'codex' is there twice",
        ),
        (
            "routes:\n  x:\n    targets: [{target: codex, weight: 0}]\n",
            "b.yaml:3: routes.x.targets.0.weight: input should be greater than 0",
        ),
        (
            "routes:\n  x:\n    targets: [codex]\n    fallback: [rain]\n",
            "b.yaml:4: routes.x.fallback.0: input should be 'not_installed',",
        ),
        ("aliases:\n  x: nope/y\n", "b.yaml:2: aliases.x: 'nope/y' names no backend; there are:"),
        ("server:\n  host: ${NOPE}\n", "b.yaml:2: server.host: ${NOPE} is not set"),
        ("- 1\n", "b.yaml:1: must be a mapping"),
        ("a: [\n", "b.yaml:2: not YAML"),
        ("a: \x00\n", "b.yaml: not YAML"),
        ("backends:\n  c: {kind: claude, models: [1]}\n", "b.yaml:2: backends.c.models.0: input"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_every_mistake_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("server:\n  port: x\n  host: 3\n")
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.yaml")
    assert "none.yaml: cannot be read" in str(caught.value)


def test_the_file_is_looked_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(config.ENV_VAR, raising=False)
    monkeypatch.chdir(tmp_path)
    assert config.find(look_here=True) is None
    users = config.user_file()
    users.parent.mkdir(parents=True)
    users.write_text("")
    assert config.find(look_here=True) == users
    (tmp_path / "backends.yaml").write_text("")
    assert config.find(look_here=True) == Path("backends.yaml")
    assert config.find(look_here=False) == users
    monkeypatch.setenv(config.ENV_VAR, "/named.yaml")
    assert config.find(look_here=True) == Path("/named.yaml")
    assert config.find(Path("/given.yaml"), look_here=True) == Path("/given.yaml")
