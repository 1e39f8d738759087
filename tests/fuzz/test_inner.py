"""What reaches the inside by other ways than the API: a CLI's MCP messages, files, kept rows."""

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clinvk import config, media, transcript
from clinvk.config import StoreConfig
from clinvk.errors import BadRequestError
from clinvk.procs.supervisor import Supervisor
from clinvk.store import Store, StoreError
from clinvk.toolserver import Call, Offer, Tool, ToolServer
from clinvk.turn import AudioPart, FilePart, ImagePart, Message, PriorCall, Role, TextPart, Turn
from clinvk.yamlfile import ConfigError
from tests.fuzz.bodies import changed, values
from tests.fuzz.budget import budget
from tests.test_media import PNG

HUNG_S = 30  # a guard against hanging tests, not a measure
MCP: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025"}},
    {"jsonrpc": "2.0", "id": "a", "method": "tools/list"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "f", "arguments": {}}},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}},
    {"jsonrpc": "2.0", "id": 3, "method": "ping"},
]


def answered(call: Call) -> None:
    call.answer([{"type": "text", "text": "so"}])


@budget(120)
@given(st.lists(changed(MCP) | st.sampled_from(MCP), max_size=6))
def test_an_offer_answers_whatever_a_cli_asks(messages: list[dict[str, Any]]) -> None:
    offer = Offer("http://x", [Tool("f", "does", {"type": "object"})], answered)
    held = []
    for message in messages:
        reply = offer.reply(message)
        if isinstance(reply, Call):
            held.append(reply)
            assert isinstance(reply.arguments, dict)
        elif reply is not None:
            json.dumps(reply)
    offer.close()
    for call in held:
        offer.done(call)


@pytest.fixture
async def offer() -> AsyncIterator[Offer]:
    async with Supervisor() as supervisor:
        server = ToolServer(supervisor)
        async with server.offer([Tool("f", "does", {"type": "object"})], answered) as offered:
            yield offered


async def test_bodies_that_are_no_messages_are_a_400_to_the_cli(offer: Offer) -> None:
    bodies = (b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000, b'"\\ud800"', b"1" * 5000, b"NaN")
    async with aiohttp.ClientSession(headers=offer.headers) as http:
        with anyio.fail_after(HUNG_S):
            for body in bodies:
                async with http.post(offer.url, data=body) as response:
                    assert response.status == 400, body
            names: list[Any] = [[], {}, None, 5, "f\ud800", "g"]
            for name in names:
                call = {"id": 1, "method": "tools/call", "params": {"name": name}}
                async with http.post(offer.url, json=call) as response:
                    assert response.status == 200
                    assert "error" in await response.json()


async def test_nobody_without_its_secret_is_answered(offer: Offer) -> None:
    async with aiohttp.ClientSession() as http:
        [(name, secret)] = offer.headers.items()
        wrong: list[dict[str, str]] = [{}]
        wrong += [{name: said} for said in ("", secret[:-1], secret + "a", "\udcff")]
        for headers in wrong:
            with contextlib.suppress(UnicodeEncodeError):
                async with http.post(offer.url, json=MCP[1], headers=headers) as response:
                    assert response.status == 403
        right = {name: secret}
        for host in ("evil.example", "localhost", ""):
            async with http.post(
                offer.url, json=MCP[1], headers={**right, "Host": host}
            ) as refused:
                assert refused.status in (400, 404)
        base = offer.url.rsplit("/", 1)[0]
        for path in ("", "/", "/x", f"//{offer.url.rsplit('/', 1)[1]}"):
            async with http.post(base + path, json=MCP[1], headers=right) as response:
                assert response.status == 404


SETTINGS: list[dict[str, Any]] = [
    {
        "server": {
            "host": "127.0.0.1",
            "port": 8080,
            "api_keys": [{"name": "ci", "sha256": "0" * 64, "models": ["claude"]}],
            "allowed_hosts": ["box.lan"],
            "cors_origins": ["https://app.example.com"],
            "store": {"path": None, "max_age_days": 3.5},
            "fetch": {"allow_private": ["a"], "max_mb": 1},
        },
        "backends": {
            "claude": {"kind": "claude", "command": ["claude"], "env": {"A": "${A}"}},
            "codex": {"kind": "codex", "config": {"a.b": [1, {"c": None}]}, "max_queue": 3},
            "gemini": {"kind": "gemini", "retries": 1, "models": ["x"]},
            "echo": {"kind": "echo", "warm": 0},
        },
        "aliases": {"gpt-*": "codex/{model}"},
    }
]


@budget(80)
@given(changed(SETTINGS))
def test_settings_are_taken_or_a_mistake_in_them_is_named(found: dict[str, Any]) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(found)))
    with contextlib.suppress(ConfigError):
        config.parse(text, name="a.yaml", env={"A": "b"})


YAML = (
    *("a: &a [*a]", "a: &a {b: *a}", "server: {<<: *b}", "? [1]\n: 2", "!!python/object:a.b {}"),
    *(
        "backends: {1: {kind: echo}}",
        "{" * 3000,
        "[" * 3000,
        "a: 2024-99-99",
        "a: 1_0:9",
        "%YAML 9",
    ),
    *("server: {port: .inf}", "- a", "\t", "a: !!binary x", "--- a\n--- b"),
    *(
        "backends: {a: {kind: [echo]}}",
        "aliases: {1: 2}",
        "a: !!set {b}",
        "server: 1: 2",
        "\0",
        "@",
    ),
    *("server: !!timestamp 2001-1-1", "a: !!int x", "a: !!float x", "null: 1", "true: {1: 2}"),
)


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_yaml_that_is_no_settings_is_named(text: str) -> None:
    with pytest.raises(ConfigError):
        config.parse(text, name="a.yaml", env={})


QUICK = [text for text in YAML if len(text) < 1000 and "*" not in text]


@budget(150)
@given(st.text(max_size=60) | st.lists(st.sampled_from(QUICK), max_size=3).map("\n".join))
def test_any_text_is_settings_or_a_named_mistake(text: str) -> None:
    with contextlib.suppress(ConfigError):
        config.parse(text, name="a.yaml", env={})
    with contextlib.suppress(ConfigError):
        config.parse_keys(text, name="keys.yaml")


ROWS = ("", "{", "[]", 5, "null", '"a"', "[" * 100_000, b"\xff", b"{}\xff")


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
async def test_a_row_that_is_no_response_is_an_error_of_the_store(
    row: str | bytes | int, tmp_path: Path
) -> None:
    path = tmp_path / "kept.sqlite3"
    store = Store(StoreConfig(path=str(path)))
    body = {"id": "resp_1", "output": [{"id": "msg_1", "type": "message"}]}
    await store.save(body, [{"id": "msg_0", "type": "message"}])
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE responses SET body = ?", (row,))
        db.execute("UPDATE items SET body = ?", (row,))
    again = Store(StoreConfig(path=str(path)))
    reads = (
        again.get("resp_1"),
        again.items("resp_1", output=True),
        again.find(["msg_0", "msg_1"]),
    )
    for read in reads:
        with pytest.raises(StoreError):
            await read
    await again.close()


parts = st.one_of(
    st.builds(TextPart, st.text()),
    st.builds(
        ImagePart, url=st.text() | st.sampled_from((f"data:image/png;base64,{PNG}", "data:,"))
    ),
    st.builds(ImagePart, media_type=st.none() | st.text(), data=st.text() | st.just(PNG)),
    st.builds(AudioPart, st.sampled_from(("wav", "mp3", "x")), st.text() | st.just("aGk=")),
    st.builds(
        FilePart,
        filename=st.none() | st.text(),
        data=st.none() | st.text() | st.sampled_from(("JVBERi0=", "data:;base64,aGk=", "aGk")),
    ),
)


@budget(300)
@given(parts)
def test_media_are_read_or_refused(part: Any) -> None:
    with contextlib.suppress(BadRequestError):
        match part:
            case ImagePart():
                assert media.read_image(part, "a").media_type.startswith("image/")
            case AudioPart():
                assert media.read_audio(part, "a")
            case FilePart():
                document = media.read_document(part, "a")
                assert (document.text is None) == media.is_pdf(part)


calls = st.builds(PriorCall, st.text(), st.text(), st.text())
said = st.builds(
    Message,
    st.sampled_from(Role),
    st.lists(parts, max_size=3).map(tuple),
    st.lists(calls, max_size=2).map(tuple),
    st.none() | st.text(),
)


@budget(100)
@given(st.lists(said, min_size=1, max_size=5))
def test_any_conversation_has_a_transcript(messages: list[Message]) -> None:
    turn = Turn("m", tuple(messages))
    whole = transcript.render(turn)
    assert isinstance(whole, str)
    for message in messages:
        assert all(p.text in whole for p in message.parts if isinstance(p, TextPart))
    assert all(block for block in transcript.blocks(turn)) or len(messages) == 1


@budget(200)
@given(values)
def test_any_value_is_a_set_of_keys_or_a_named_mistake(value: Any) -> None:
    with contextlib.suppress(ConfigError, yaml.YAMLError, ValueError):
        config.parse_keys(yaml.safe_dump({"keys": value}), name="keys.yaml")
