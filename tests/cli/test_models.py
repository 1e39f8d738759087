"""`clinvk models`: the same list as the server's."""

import json
import subprocess
import urllib.request

from tests.cli.conftest import Clinvk, Terminal, read_until


def test_table_has_the_models_of_what_is_installed(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude(models=["opus"])
    ended = clinvk("models")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["model", "owned", "by"],
        ["claude", "anthropic"],
        ["claude/opus", "anthropic"],
        ["echo", "clinvk"],
    ]


def test_json_is_the_list_of_the_server(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude(models=["opus"])
    ended = clinvk("models", "--json")
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1)
    listed = json.loads(ended.out)
    assert [row["id"] for row in listed["data"]] == ["claude", "claude/opus", "echo"]
    server = clinvk.start("serve", "--port", "0", stderr=subprocess.DEVNULL)
    address = read_until(server.stdout, "listening").split()[-1]
    with urllib.request.urlopen(f"{address}/models") as reply:
        assert json.load(reply) == listed


def test_json_is_indented_for_a_person(clinvk: Clinvk) -> None:
    terminal = Terminal(clinvk, "models", "--json")
    assert terminal.end() == 0
    assert terminal.lines[:2] == ["{", '  "object": "list",']


def test_embeddings_are_there_by_themselves_if_the_extra_is(clinvk: Clinvk) -> None:
    listed = {
        row["id"]: row["clinvk"] for row in json.loads(clinvk("models", "--json").out)["data"]
    }
    assert list(listed) == ["echo", "embeddings", "embeddings/wordllama"]
    assert [listed[name]["embeddings"] for name in ("echo", "embeddings")] == ["no", "native"]
    assert listed["embeddings"]["stream"] == "no"
    bare = clinvk("models", env=clinvk.without("tokenizers"))
    assert [line.split()[0] for line in bare.out.splitlines()] == ["model", "echo"]
