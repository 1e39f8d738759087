"""Pages whose origins are configured: what they may ask and read, and that no other may."""

from collections.abc import AsyncIterator

import pytest

from tests.browsing import CHAT, EVIL, FETCH, TRUSTED, Site, is_unreadable, over, raw
from tests.keyed import HI, as_, entry, keyed
from tests.serving import API

EXPOSED = ("x-request-id", "request-id", "retry-after", "x-should-retry", "x-clinvk-turn")
SDK_HEADERS = (
    "authorization,content-type,x-api-key,anthropic-version,anthropic-beta,idempotency-key,"
    "anthropic-dangerous-direct-browser-access,x-stainless-lang,x-stainless-retry-count"
)


@pytest.fixture
async def trusting() -> AsyncIterator[Site]:
    async with over(keyed(cors_origins=[TRUSTED, "null"])) as made:
        yield made


def preflight(origin: str, method: str = "POST", **more: str) -> dict[str, str]:
    return {
        **FETCH,
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": SDK_HEADERS,
        **more,
    }


@pytest.mark.parametrize("origin", [TRUSTED, "null"])
@pytest.mark.parametrize("path", [CHAT, "/anthropic/v1/messages", f"{API}/responses/resp_1"])
async def test_a_page_that_is_configured_may_ask_and_read(
    trusting: Site, origin: str, path: str
) -> None:
    status, text, headers = await trusting.send("OPTIONS", path, preflight(origin))
    assert (status, text) == (204, "")
    assert headers["Access-Control-Allow-Origin"] == origin
    assert headers["Access-Control-Allow-Methods"].split(", ") == ["GET", "POST", "DELETE"]
    assert headers["Access-Control-Allow-Headers"] == SDK_HEADERS
    assert "Access-Control-Allow-Credentials" not in headers
    assert "Access-Control-Allow-Private-Network" not in headers
    assert "Origin" in ", ".join(headers.getall("Vary"))
    sent = {**FETCH, "Origin": origin, "Content-Type": "application/json"}
    for body, expected in ((HI, 200), ({**HI, "stream": True}, 200), ({"model": 1}, 400)):
        status, _, headers = await trusting.send("POST", CHAT, sent, body)
        assert (status, headers["Access-Control-Allow-Origin"]) == (expected, origin)
        exposed = headers["Access-Control-Expose-Headers"].split(", ")
        assert set(EXPOSED) <= set(exposed)
        assert headers["Vary"] == "Origin"


async def test_no_other_page_is_let_in_by_one_that_is_configured(trusting: Site) -> None:
    for origin in (
        EVIL,
        "https://app.example.com",
        f"{TRUSTED}0",
        "https://x.app.example.com:8443",
    ):
        status, _, headers = await trusting.send("OPTIONS", CHAT, preflight(origin))
        assert (status, is_unreadable(headers)) == (403, True)
        sent = {**FETCH, "Origin": origin, "Content-Type": "application/json"}
        status, _, headers = await trusting.send("POST", CHAT, sent, HI)
        assert (status, is_unreadable(headers)) == (403, True)
        assert headers["Vary"] == "Origin"  # a cache must not give it to who may read
    assert trusting.untouched


async def test_a_browser_that_asks_for_the_private_network_is_told(trusting: Site) -> None:
    asked = {"Access-Control-Request-Private-Network": "true"}
    _, _, headers = await trusting.send("OPTIONS", CHAT, preflight(TRUSTED, **asked))
    assert headers["Access-Control-Allow-Private-Network"] == "true"
    _, _, headers = await trusting.send("OPTIONS", CHAT, preflight(EVIL, **asked))
    assert is_unreadable(headers)


async def test_header_names_that_are_none_are_not_echoed(trusting: Site) -> None:
    for names in ("a: b", "x" * 5000, "<b>", ""):
        asked = preflight(TRUSTED) | {"Access-Control-Request-Headers": names}
        status, _, headers = await trusting.send("OPTIONS", CHAT, asked)
        assert (status, headers.get("Access-Control-Allow-Headers")) == (204, None)


async def test_with_keys_a_preflight_needs_none_and_the_request_does() -> None:
    async with over(keyed(entry("alice"), cors_origins=[TRUSTED])) as site:
        status, _, headers = await site.send("OPTIONS", CHAT, preflight(TRUSTED))
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, TRUSTED)
        sent = {**FETCH, "Origin": TRUSTED, "Content-Type": "application/json"}
        status, _, headers = await site.send("POST", CHAT, sent, HI)
        assert (status, headers["Access-Control-Allow-Origin"]) == (401, TRUSTED)  # it may read why
        assert (await site.send("POST", CHAT, {**sent, **as_("alice")}, HI))[0] == 200
        site.backend.turns.clear()
        status, _, headers = await site.send("OPTIONS", CHAT, preflight(EVIL))
        assert (status, is_unreadable(headers)) == (403, True)
        sent = {**FETCH, "Content-Type": "text/plain"}
        status, _, headers = await site.send("POST", CHAT, sent, HI)
        assert (status, is_unreadable(headers)) == (401, True)
        assert site.untouched


async def test_with_keys_any_host_may_be_asked_for_and_every_origin_configured() -> None:
    async with over(keyed(entry("alice"), cors_origins=["*"])) as site:
        sent = {**FETCH, **as_("alice"), "Host": "box.lan", "Content-Type": "application/json"}
        status, _, headers = await site.send("POST", CHAT, sent, HI)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, EVIL)
        assert (await site.send("OPTIONS", CHAT, preflight(EVIL)))[0] == 204


async def test_every_origin_is_none_without_keys() -> None:
    async with over(keyed(cors_origins=["*"])) as site:
        assert (await site.send("OPTIONS", CHAT, preflight(EVIL)))[0] == 403
        assert (await site.send("GET", f"{API}/models", FETCH))[0] == 403


async def test_without_cors_nothing_is_said_of_it() -> None:
    async with over(keyed()) as site:
        _, _, headers = await site.send("GET", f"{API}/models", {})
        assert is_unreadable(headers)
        assert "Vary" not in headers
        status, _, _ = await site.send("OPTIONS", CHAT, {})
        assert status == 405


async def test_two_origins_are_none(trusting: Site) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nHost: {trusting.here}\r\nConnection: close\r\n"
    for more in ((TRUSTED, EVIL), (f"http://{trusting.here}",) * 2):
        lines = "".join(f"Origin: {origin}\r\n" for origin in more)
        answer = await raw(trusting, f"{head}{lines}\r\n".encode())
        assert answer.split()[1] in (b"400", b"403")
    assert trusting.untouched
