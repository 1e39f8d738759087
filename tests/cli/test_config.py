"""`clinvk config`: which file, what it amounts to, and a first one."""

from pathlib import Path

import pytest
import yaml

from clinvk import config
from clinvk.cli.config import MASK, default_text, hide_secrets
from clinvk.extras import with_embeddings
from tests.cli.conftest import ROOT, Clinvk


def test_path_says_built_in_and_where_a_file_would_be(clinvk: Clinvk) -> None:
    ended = clinvk("config", "path")
    assert (ended.code, ended.out) == (0, "built-in\n")
    assert str(clinvk.user_file) in ended.err


def test_path_is_the_users_file(clinvk: Clinvk) -> None:
    path = clinvk.config(echo={"kind": "echo"})
    ended = clinvk("config", "path")
    assert (ended.code, ended.out, ended.err) == (0, f"{path}\n", "")


def test_path_is_what_the_environment_names(clinvk: Clinvk) -> None:
    ended = clinvk("config", "path", env={"CLINVK_CONFIG": "/nowhere.yaml"})
    assert (ended.code, ended.out) == (0, "/nowhere.yaml\n")
    assert "does not exist" in ended.err


def test_path_tells_of_the_file_that_only_serve_reads(clinvk: Clinvk) -> None:
    (clinvk.folder / "backends.yaml").write_text("{}")
    ended = clinvk("config", "path")
    assert ended.out == "built-in\n"
    assert "'clinvk serve' reads backends.yaml" in ended.err


def test_show_is_yaml_that_loads_to_the_same(clinvk: Clinvk) -> None:
    ended = clinvk("config", "show")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("# built-in\n")
    assert config.parse(ended.out, name="shown", env={}) == with_embeddings(config.default())


def test_show_hides_secrets(clinvk: Clinvk) -> None:
    path = clinvk.config(claude={"kind": "claude", "env": {"MY_API_KEY": "hush", "REGION": "eu"}})
    ended = clinvk("config", "show")
    assert ended.out.startswith(f"# {path}\n")
    assert "hush" not in ended.out
    assert yaml.safe_load(ended.out)["backends"]["claude"]["env"] == {
        "MY_API_KEY": MASK,
        "REGION": "eu",
    }


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("ANTHROPIC_AUTH_TOKEN", "x", MASK),
        ("http_headers", {"Authorization": "Bearer abcdefgh", "Accept": "x"}, {"Accept": "x"}),
        ("password", ["a", "b"], [MASK, MASK]),
        ("env_key", "OPENAI_API_KEY", "OPENAI_API_KEY"),
        ("max_output_tokens", 4096, 4096),
        ("base_url", "https://me:pw@host/v1", "https://[removed]@host/v1"),
        ("note", "sk-ant-abcdefgh", "[removed]"),
        ("model", "gpt-5", "gpt-5"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(name: str, value: object, shown: object) -> None:
    hidden = hide_secrets({name: value})[name]
    if isinstance(shown, dict):
        assert hidden == {"Authorization": MASK, **shown}
    else:
        assert hidden == shown


def test_init_writes_the_commented_defaults(clinvk: Clinvk) -> None:
    ended = clinvk("config", "init")
    assert (ended.code, ended.out, ended.err) == (0, f"{clinvk.user_file}\n", "")
    assert clinvk.user_file.read_text() == (ROOT / "backends.yaml").read_text()
    assert clinvk.user_file.stat().st_mode & 0o077 == 0
    assert clinvk("config", "path").out == f"{clinvk.user_file}\n"


def test_init_does_not_overwrite_unless_forced(clinvk: Clinvk) -> None:
    path = clinvk.config(echo={"kind": "echo"})
    before = path.read_text()
    ended = clinvk("config", "init")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"clinvk: {path} exists; --force overwrites it\n"
    assert path.read_text() == before
    assert clinvk("config", "init", "--force").code == 0
    assert path.read_text() == default_text()


def test_init_tells_when_the_file_will_not_be_read(clinvk: Clinvk) -> None:
    ended = clinvk("config", "init", env={"CLINVK_CONFIG": "/other.yaml"})
    assert ended.code == 0
    assert "/other.yaml" in ended.err


def test_init_that_cannot_write_says_why(clinvk: Clinvk) -> None:
    in_the_way = Path(clinvk.env["XDG_CONFIG_HOME"])
    in_the_way.write_text("a file where the folder should be")
    ended = clinvk("config", "init")
    assert (ended.code, ended.out) == (1, "")
    assert "cannot be written" in ended.err
