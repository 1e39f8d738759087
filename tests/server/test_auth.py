"""Who may call: every route with every kind of wrong key, a key's limits, and whose is what."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.events import Finished, FinishReason, ToolCall
from clinvk.keys import Keyring, add, hash_of, remove
from clinvk.registry import Registry
from clinvk.server import auth
from clinvk.server.app import create_app
from clinvk.server.auth import Callers
from tests.fakes.backend import ANSWER, LiveBackend, ScriptBackend, script_config
from tests.keyed import HI, KEYS, Served, as_, entry, keyed, over
from tests.serving import API

OPEN = {"/health", "/health/ready", "/openapi.json", "/docs"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with over(keyed(entry("alice"), entry("bob"))) as made:
        yield made


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path that is served; a route that is added is among them."""
    for route in create_app(script_config()).router.routes():
        assert route.resource is not None
        yield route.method, route.resource.canonical.replace("{id}", "fake")


KEPT_FROM = [(method, path) for method, path in routes() if path not in OPEN]
WRONG: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer sk-clinvk-carol"},
    {"Authorization": "Bearer "},
    {"Authorization": "Basic c2stY2xpbnZrLWFsaWNl"},
    {"Authorization": "sk-clinvk-alice"},
    {"Authorization": "Bearer sk-clinvk-alice,sk-clinvk-bob"},
    {"X-Api-Key": "sk-clinvk-carol"},
    {"X-Api-Key": "Bearer sk-clinvk-alice"},
    {"x-api-key": hash_of("sk-clinvk-alice")},
    {"Api-Key": "sk-clinvk-alice"},
    {"Cookie": "key=sk-clinvk-alice"},
]


@pytest.mark.parametrize(("method", "path"), KEPT_FROM)
async def test_no_route_is_served_without_a_valid_key(
    served: Served, method: str, path: str
) -> None:
    for headers in WRONG:
        status, body, told = await served.call(method, path, json=HI, headers=headers)
        assert status == 401
        assert told["WWW-Authenticate"] == "Bearer"
        assert told["x-should-retry"] == "false"
        assert "x-request-id" in told
        if method != "HEAD":
            assert body["error"]["type"] == "authentication_error"
            assert body.get("type") == ("error" if path.startswith("/anthropic") else None)
            assert body["error"].get("code") in (None, "invalid_api_key")
            assert not any(key in json.dumps(body) for key in KEYS.values())
    assert served.backend.turns == []
    for headers in ({"X-Api-Key": KEYS["bob"]}, {"authorization": f"bearer {KEYS['alice']}"}):
        status, _, _ = await served.call(method, path, json=HI, headers=headers)
        assert status != 401


@pytest.mark.parametrize("path", ["/nope", f"{API}/nope", "/", "/health/../v1/models", "//docs"])
async def test_what_does_not_exist_is_not_told_without_a_key(served: Served, path: str) -> None:
    assert (await served.call("GET", path))[0] == 401
    assert (await served.call("PUT", path))[0] == 401
    assert (await served.call("OPTIONS", path))[0] == 401


async def test_both_headers_may_be_sent_and_one_valid_key_is_enough(served: Served) -> None:
    headers = {"Authorization": "Bearer unused", "X-Api-Key": KEYS["alice"]}
    assert (await served.call("GET", f"{API}/models", headers=headers))[0] == 200
    headers = {"Authorization": f"Bearer {KEYS['alice']}", "X-Api-Key": "unused"}
    assert (await served.call("GET", f"{API}/models", headers=headers))[0] == 200


async def test_any_key_will_do_where_none_is_needed() -> None:
    async with over(keyed()) as served:
        for headers in WRONG:
            assert (await served.call("GET", f"{API}/models", headers=headers))[0] == 200


async def test_open_routes_tell_no_more_than_they_must_without_a_key(served: Served) -> None:
    assert set(OPEN) == set(auth.OPEN)
    assert (await served.call("GET", "/health"))[1] == {"status": "ok"}
    assert (await served.call("GET", "/health/ready"))[1] == {"status": "ready"}
    assert (await served.call("GET", "/health", headers=WRONG[1]))[1] == {"status": "ok"}
    for path in ("/openapi.json", "/docs"):
        status, body, _ = await served.call("GET", path)
        assert status == 200
        assert not {"alice", "bob"} & set(json.dumps(body).split())
    told = (await served.call("GET", "/health", headers=as_("alice")))[1]
    assert set(told["backends"]) == {"fake"}
    told = (await served.call("GET", "/health/ready", headers=as_("alice")))[1]
    assert told["backends"] == {"fake": "ready"}


async def test_a_revoked_key_stops_working_while_the_server_runs(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    add(file, entry("alice"))
    add(file, entry("bob"))
    async with over(keyed(keys_file=str(file))) as served:
        assert (await served.ask("alice"))[0] == 200
        remove(file, "alice")
        status, body, _ = await served.ask("alice")
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert (await served.ask("bob"))[0] == 200
        remove(file, "bob")
        assert (await served.ask("bob"))[0] == 401
        assert (await served.call("GET", f"{API}/models"))[0] == 401


async def test_a_file_that_is_spoiled_lets_nobody_else_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    add(file, entry("alice"))
    async with over(keyed(keys_file=str(file))) as served:
        file.write_bytes(b"\xff\x00 keys: [")
        assert (await served.ask("alice"))[0] == 200
        assert (await served.ask("bob"))[0] == 401
        file.unlink()
        assert (await served.ask("alice"))[0] == 401
        assert (await served.call("GET", f"{API}/models"))[0] == 401


async def test_names_are_logged_and_keys_never(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "clinvk")
    await served.ask("alice")
    for headers in WRONG:
        await served.call("POST", f"{API}/chat/completions?key=sk-clinvk-q", headers=headers)
    await served.call("GET", f"{API}/models", headers={"X-Api-Key": "sk-clinvk-\x80\x81"})
    assert "key=alice" in caplog.text
    assert "sk-clinvk" not in caplog.text
    assert hash_of(KEYS["alice"]) not in caplog.text


MODELS = [
    (["fake"], {"fake", "short"}, "alias-x"),
    (["short"], {"short"}, "fake"),
    (["fake/*"], set(), "fake"),
    (["alias-*", "fake/m[12]"], set(), "short"),
    (["*"], {"fake", "short"}, None),
]


@pytest.mark.parametrize(("patterns", "listed", "refused"), MODELS)
async def test_a_key_may_be_for_some_models(
    patterns: list[str], listed: set[str], refused: str | None
) -> None:
    async with over(keyed(entry("alice", models=patterns))) as served:
        for path in (f"{API}/models", "/v1/models", "/anthropic/v1/models"):
            rows = (await served.call("GET", path, headers=as_("alice")))[1]["data"]
            assert {row["id"] for row in rows} == listed
        for model in listed:
            assert (await served.ask("alice", model=model))[0] == 200
        if refused is None:
            return
        served.backend.turns.clear()
        headers = as_("alice")
        hi = {**HI, "model": refused, "max_tokens": 5, "input": "hi"}
        for path in (
            f"{API}/chat/completions",
            f"{API}/responses",
            "/anthropic/v1/messages",
            "/anthropic/v1/messages/count_tokens",
        ):
            status, body, told = await served.call("POST", path, json=hi, headers=headers)
            assert (status, body["error"]["type"]) == (403, "permission_error"), body
            assert f"'alice' is not for the model {refused!r}" in body["error"]["message"]
            assert told["x-should-retry"] == "false"
        prompt = {"model": refused, "prompt": "hi"}
        status, _, _ = await served.call("POST", f"{API}/completions", json=prompt, headers=headers)
        assert status == 403
        for path in (f"{API}/models/", "/anthropic/v1/models/"):
            status, _, _ = await served.call("GET", path + refused, headers=headers)
            assert status == 403
        assert served.backend.turns == []


async def test_a_model_may_be_named_as_it_is_asked_for_or_as_what_it_is() -> None:
    async with over(keyed(entry("alice", models=["alias-*", "fake/m[12]"]))) as served:
        asked = ["alias-1", "fake/m1", "fake/m3", "fake/alias-1", "nope"]
        found = [(await served.ask("alice", model=model))[0] for model in asked]
    assert found == [200, 200, 403, 403, 403]


async def test_a_response_is_its_callers_alone(served: Served) -> None:
    path = f"{API}/responses"
    body = {"model": "fake", "input": "my secret"}
    mine = (await served.call("POST", path, json=body, headers=as_("alice")))[1]
    one = f"{path}/{mine['id']}"
    item = {"type": "item_reference", "id": mine["output"][0]["id"]}
    again = {"model": "fake", "input": "and?"}
    after = {**again, "previous_response_id": mine["id"]}
    referring = {"model": "fake", "input": [item, {"role": "user", "content": "and?"}]}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", one, {}),
        ("GET", f"{one}/input_items", {}),
        ("POST", f"{one}/cancel", {}),
        ("DELETE", one, {}),
        ("POST", path, {"json": after}),
        ("POST", path, {"json": referring}),
    ]
    others = [await served.call(*to, **sent, headers=as_("bob")) for *to, sent in asked]
    assert [status for status, _, _ in others] == [404, 404, 404, 404, 400, 400]
    assert others[4][1]["error"]["code"] == "previous_response_not_found"
    assert not any("secret" in json.dumps(told) for _, told, _ in others)
    nobodys = f"{path}/resp_{'0' * 32}"
    unknown = (await served.call("GET", nobodys, headers=as_("bob")))[1]["error"]
    said = unknown["message"].replace(f"resp_{'0' * 32}", mine["id"])
    assert others[0][1]["error"] == {**unknown, "message": said}
    own = [await served.call(*to, **sent, headers=as_("alice")) for *to, sent in asked]
    assert [status for status, _, _ in own] == [200, 200, 400, 200, 400, 400]


async def test_a_response_can_be_gone_on_with_by_its_caller(served: Served) -> None:
    path, body = f"{API}/responses", {"model": "fake", "input": "a colour"}
    first = (await served.call("POST", path, json=body, headers=as_("alice")))[1]
    after = {**body, "previous_response_id": first["id"]}
    assert (await served.call("POST", path, json=after, headers=as_("alice")))[0] == 200
    assert len(served.backend.turns[-1][0].messages) == 3


async def test_a_conversation_goes_on_for_its_caller_alone() -> None:
    call = (ToolCall("c1", "f", "{}"), Finished(FinishReason.TOOL_CALLS))
    backend = LiveBackend(call, call, ANSWER, ANSWER)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with over(keyed(entry("alice"), entry("bob")), backend) as served:
        _, body, _ = await served.ask("alice", tools=tools)
        said = body["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "42"}
        messages = [*HI["messages"], said, result]
        others = (await served.ask("bob", tools=tools, messages=messages))[2]
        assert others["x-clinvk-turn"] == "replayed"
        own = (await served.ask("alice", tools=tools, messages=messages))[2]
        assert own["x-clinvk-turn"] == "resumed"


async def test_the_json_of_a_page_is_asked_for_after_the_key(served: Served) -> None:
    path = f"{API}/chat/completions"
    assert (await served.call("POST", path, data="{}"))[0] == 401
    headers = as_("alice")
    assert (await served.call("POST", path, data="{}", headers=headers))[0] == 415


def test_a_model_that_nobody_has_is_nobodys_to_use() -> None:
    backend = ScriptBackend()
    registry = Registry(script_config(), {"fake": backend})
    ring = Keyring(keyed(entry("alice", models=["fake"])).server)
    caller = Callers().caller(ring.find(KEYS["alice"]), known=True)
    assert not caller.may_use("nope", registry)
    assert caller.may_use("fake", registry)
