"""`clinvk doctor`: what it finds, and what it says to do."""

import json

from tests.cli.conftest import Clinvk, Terminal


def test_nothing_installed_is_exit_1_with_the_commands(clinvk: Clinvk) -> None:
    ended = clinvk("doctor")
    assert (ended.code, ended.err) == (1, "")
    rows = {line.split()[0]: line for line in ended.out.splitlines()}
    assert "not installed" in rows["claude"]
    assert "fix: npm install -g @anthropic-ai/claude-code" in rows["claude"]
    assert "fix: npm install -g @openai/codex" in rows["codex"]
    assert "fix: npm install -g @google/gemini-cli" in rows["gemini"]
    assert "ready" in rows["echo"]


def test_ready_cli_is_exit_0_with_its_version(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[1].split() == ["claude", "ready", "2.1.197"]


def test_probe_asks_each_ready_backend(clinvk: Clinvk) -> None:
    pid_file = clinvk.with_fake_claude()
    assert clinvk("doctor").code == 0
    assert not pid_file.exists()
    ended = clinvk("doctor", "--probe")
    assert (ended.code, ended.err) == (0, "")
    assert pid_file.exists()
    assert all("first after " in line for line in ended.out.splitlines()[1:])


def test_probe_that_fails_is_told_and_counts(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude(timeout_s=0.001)
    ended = clinvk("doctor", "--probe")
    assert (ended.code, ended.err) == (1, "")
    claude = ended.out.splitlines()[1]
    assert "failed" in claude
    assert "raise timeout_s of backend 'claude'" in claude


def test_json_has_the_findings(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("doctor", "--probe", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    probe = found["claude"].pop("probe")
    assert found["claude"] == {
        "kind": "claude",
        "state": "ready",
        "version": "2.1.197",
        "tested": True,
        "reason": None,
        "fix": None,
        "works": True,
    }
    assert probe["error"] is None
    assert 0 < probe["first_s"] <= probe["total_s"]


def test_terminal_sees_what_is_going_on(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    terminal = Terminal(clinvk, "doctor", columns=100)
    assert terminal.end() == 0
    assert "checking claude, echo …" in terminal.raw
    assert terminal.lines[0].split() == ["backend", "state", "version", "what", "to", "do"]


def test_embeddings_alone_are_no_reason_to_call_all_well(clinvk: Clinvk) -> None:
    ended = clinvk("doctor", "--probe", "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["embeddings"]["works"]) == (1, True)
    assert found["embeddings"]["probe"]["first_s"] > 0


def test_embeddings_count_where_nothing_else_is_served(clinvk: Clinvk) -> None:
    clinvk.config(vectors={"kind": "embeddings"}, echo={"kind": "echo"})
    ended = clinvk("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert ["vectors", "ready"] in [line.split()[:2] for line in ended.out.splitlines()]


def test_embeddings_without_the_extra_say_how_to_get_it(clinvk: Clinvk) -> None:
    clinvk.config(vectors={"kind": "embeddings"})
    ended = clinvk("doctor", env=clinvk.without("wordllama"))
    assert ended.code == 1
    assert "not installed" in ended.out
    assert "fix: pip install 'clinvk[embeddings]'" in ended.out


def test_an_embedding_model_that_cannot_be_read_is_told(clinvk: Clinvk) -> None:
    (clinvk.folder / "wordllama").mkdir()
    (clinvk.folder / "wordllama" / "__init__.py").write_text("")
    clinvk.config(vectors={"kind": "embeddings"})
    ended = clinvk("doctor", "--probe")
    assert ended.code == 1
    assert "the embedding model of the package 'wordllama' cannot be read" in ended.out
