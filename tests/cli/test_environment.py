"""The command under the variables that other servers know."""

import subprocess

from tests.cli.conftest import Clinvk, read_until


def test_a_server_listens_and_asks_for_keys_as_the_environment_says(clinvk: Clinvk) -> None:
    token = "a-token-of-enough-length"
    env = {"HOST": "127.0.0.1", "PORT": "0", "REQUIRE_AUTH": "true", "API_TOKEN": token}
    process = clinvk.start("serve", "--no-warm", env=env, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"clinvk is listening on http://127.0.0.1:")
    told = read_until(process.stderr, "echo")
    assert "where to listen is said by $HOST and $PORT" in told
    assert "callers need a key: api-token" in told


def test_the_command_line_comes_before_the_environment(clinvk: Clinvk) -> None:
    env = {"PORT": "1", "HOST": "203.0.113.1"}
    args = ("serve", "--no-warm", "--port", "0", "--host", "127.0.0.1")
    process = clinvk.start(*args, env=env, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"clinvk is listening on http://127.0.0.1:")
    assert "said by" not in read_until(process.stderr, "echo")


def test_a_mistake_in_the_environment_is_told(clinvk: Clinvk) -> None:
    ended = clinvk("serve", env={"PORT": "http"})
    assert ended.code == 2
    assert "$PORT: 'http' is no port" in ended.err
    ended = clinvk("serve", "--port", "0", env={"REQUIRE_AUTH": "1"})
    assert ended.code == 2
    assert "set $API_TOKEN" in ended.err


def test_an_address_of_an_api_is_a_backend_without_a_file_alone(clinvk: Clinvk) -> None:
    env = {"OPENAI_API_BASE": "http://127.0.0.1:1/v1", "OPENAI_MODEL": "qwen"}
    assert "\nopenai " in clinvk("models", env=env).out
    assert "\nopenai " not in clinvk("models", env={"OPENAI_API_KEY": "sk-1"}).out
    (clinvk.folder / "my.yaml").write_text("backends: {here: {kind: echo}}")
    assert "openai" not in clinvk("models", "--config", "my.yaml", env=env).out
