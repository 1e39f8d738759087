"""Settings by variables that users of other servers know."""

import pytest

from clinvk import config, environment, keys
from clinvk.config import ConfigError, OpenAIConfig, ServerConfig
from clinvk.keys import Keyring

BASE = {"OPENAI_API_BASE": "http://127.0.0.1:8000/v1"}


def test_an_address_is_a_backend_beside_the_others() -> None:
    env = {**BASE, "OPENAI_API_KEY": "sk-1", "OPENAI_MODEL": "qwen"}
    found = environment.with_upstream(config.default(), env)
    upstream = found.backends["openai"]
    assert isinstance(upstream, OpenAIConfig)
    assert (upstream.base_url, upstream.api_key, upstream.model) == (*BASE.values(), "sk-1", "qwen")
    assert set(found.backends) == {*config.default().backends, "openai"}
    bare = environment.with_upstream(config.default(), BASE).backends["openai"]
    assert isinstance(bare, OpenAIConfig)
    assert (bare.api_key, bare.model) == (None, None)


@pytest.mark.parametrize(
    "env", [{"OPENAI_API_KEY": "sk-1", "OPENAI_MODEL": "m"}, {"OPENAI_API_BASE": ""}]
)
def test_a_key_alone_makes_nothing(env: dict[str, str]) -> None:
    assert environment.with_upstream(config.default(), env) == config.default()


def test_what_is_no_address_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^\$OPENAI_API_BASE: must be"):
        environment.with_upstream(config.default(), {"OPENAI_API_BASE": "sk-secret"})


def test_where_to_listen_is_said_unless_the_file_does() -> None:
    env = {"HOST": "::1", "PORT": "9000"}
    assert environment.listening(ServerConfig(), env) == {"host": "::1", "port": 9000}
    assert environment.listening(ServerConfig(port=1), env) == {"host": "::1"}
    assert environment.listening(ServerConfig(host="127.0.0.1"), env) == {"port": 9000}
    assert environment.listening(ServerConfig(uds="/run/a"), env) == {}
    assert environment.listening(ServerConfig(), {"HOST": "", "PORT": ""}) == {}
    assert environment.listening(ServerConfig(), {"HOST": "localhost"}) == {"host": "localhost"}
    assert environment.listening(ServerConfig(), {"HOST": "my-laptop.lan"}) == {}


@pytest.mark.parametrize("port", ["x", "65536", "-1", "¹", "999999999"])
def test_what_is_no_port_is_named(port: str) -> None:
    with pytest.raises(ConfigError, match=r"^\$PORT: "):
        environment.listening(ServerConfig(), {"PORT": port})


def test_the_token_is_a_key() -> None:
    ring = Keyring(ServerConfig(), env={"API_TOKEN": "a-token-of-enough-length"})
    assert (ring.required, ring.names) == (True, [keys.TOKEN_NAME])
    assert ring.find("a-token-of-enough-length") is not None
    both = {"API_TOKEN": "a-token-of-enough-length", "REQUIRE_AUTH": "True"}
    assert Keyring(ServerConfig(), env=both).required


@pytest.mark.parametrize("word", ["false", "0", "No", "off"])
def test_the_token_is_none_where_none_is_needed(word: str) -> None:
    env = {"API_TOKEN": "a-token-of-enough-length", "REQUIRE_AUTH": word}
    assert not Keyring(ServerConfig(), env=env).required


def test_other_keys_stay_needed_whatever_is_said() -> None:
    env = {keys.ENV_VAR: "a=a-key-of-enough-length", "REQUIRE_AUTH": "false"}
    assert Keyring(ServerConfig(), env=env).names == ["a"]


def test_a_key_that_is_asked_for_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"set \$API_TOKEN"):
        Keyring(ServerConfig(), env={"REQUIRE_AUTH": "true"})
    assert not Keyring(ServerConfig(), env={"REQUIRE_AUTH": " "}).required


def test_a_word_that_is_neither_is_named() -> None:
    with pytest.raises(ConfigError, match="neither true nor false"):
        Keyring(ServerConfig(), env={"REQUIRE_AUTH": "maybe"})


def test_a_token_that_no_header_can_carry_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match=r"^\$API_TOKEN: the key must be") as caught:
        Keyring(ServerConfig(), env={"API_TOKEN": "hunter 2"})
    assert "hunter" not in str(caught.value)
