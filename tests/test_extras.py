"""What an extra adds to a configuration, and what it leaves alone."""

import json
import subprocess
import sys

import pytest

from clinvk import config, environment
from clinvk.config import ConfigError, EmbeddingsConfig
from clinvk.extras import has_embeddings, with_embeddings

HUNG_S = 60


def parse(text: str) -> config.Config:
    return config.parse(text, name="b.yaml", env={})


def test_the_built_in_configuration_gains_the_backend_and_the_alias() -> None:
    found = with_embeddings(config.default())
    assert found.backends == {
        **config.default().backends,
        "embeddings": EmbeddingsConfig(kind="embeddings"),
    }
    assert found.aliases == {**config.default().aliases, "text-embedding-*": "embeddings"}


def test_so_does_a_file_that_names_no_backends() -> None:
    found = with_embeddings(parse("server: {port: 1}\n"))
    assert "embeddings" in found.backends
    assert found.aliases["text-embedding-*"] == "embeddings"


def test_aliases_that_somebody_wrote_stay() -> None:
    found = with_embeddings(parse("aliases: {mine: echo}\n"))
    assert "embeddings" in found.backends
    assert found.aliases == {"mine": "echo"}


def test_backends_that_somebody_wrote_stay() -> None:
    written = parse("backends: {echo: {kind: echo}}\n")
    assert with_embeddings(written) is written


@pytest.mark.parametrize("package", ["numpy", "safetensors", "tokenizers", "wordllama"])
def test_without_the_extra_all_is_as_it_was(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_embeddings()
    monkeypatch.setitem(sys.modules, package, None)
    assert not has_embeddings()
    assert with_embeddings(config.default()) == config.default()


def test_the_alias_comes_with_the_backend_in_a_file() -> None:
    assert parse("backends: {embeddings: {kind: embeddings}}\n").aliases == {
        "text-embedding-*": "embeddings"
    }


@pytest.mark.parametrize(
    ("endpoints", "taken"), [("[embeddings]", False), ("[chat/completions]", True)]
)
def test_no_alias_takes_embeddings_from_an_upstream(endpoints: str, taken: bool) -> None:
    found = parse(
        "backends:\n  embeddings: {kind: embeddings}\n"
        f"  up: {{kind: openai, base_url: 'http://127.0.0.1:1/v1', endpoints: {endpoints}}}\n"
    )
    assert ("text-embedding-*" in found.aliases) is taken


def test_nor_from_the_upstream_of_the_environment() -> None:
    env = {"OPENAI_API_BASE": "http://127.0.0.1:1/v1"}
    found = environment.with_upstream(with_embeddings(config.default()), env)
    assert {"openai", "embeddings"} <= set(found.backends)
    assert found.aliases == config.default().aliases


@pytest.mark.parametrize("key", ["model: other", "models: [wordllama, other]"])
def test_another_model_than_there_is_cannot_be_configured(key: str) -> None:
    with pytest.raises(ConfigError, match=r"the only model is 'wordllama'"):
        parse(f"backends: {{embeddings: {{kind: embeddings, {key}}}}}\n")


LOADED = """
import json, sys
import clinvk.cli.serving
from clinvk import config
from clinvk.extras import with_embeddings
from clinvk.server.app import create_app
create_app(with_embeddings(config.default()))
print(json.dumps(sorted({"numpy", "safetensors", "tokenizers", "wordllama"} & set(sys.modules))))
"""


def test_a_server_that_embeds_nothing_loads_nothing_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, timeout=HUNG_S, check=True
    )
    assert json.loads(done.stdout) == []
