"""What a web page can do: requests as browsers send them, from other origins and rebound names.

`tests/real/test_browser.py` asks a real browser the same.
"""

import json
from collections.abc import AsyncIterator

import pytest

from clinvk.server.app import create_app
from tests.browsing import CHAT, CROSS, EVIL, FETCH, Site, is_unreadable, over, raw
from tests.keyed import HI, as_, entry, keyed
from tests.serving import API

NO_KEYS: dict[str, str] = {}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with over(keyed()) as made:
        yield made


PATHS = [f"{API}/models", "/v1/models", "/anthropic/v1/models", "/health", "/health/ready"]
PATHS += ["/metrics", "/openapi.json", "/docs", f"{API}/responses/resp_1", "/nope"]

HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "localhost.evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "evil-localhost:{port}",
    "app.localhost:{port}",
    "127.0.0.1@evil.example",
    "localhost:{port}@evil.example",
    "localhost, evil.example",
    "localhost/",
    "192.168.1.5:{port}",
    "0.0.0.0:{port}",
    "[::]:{port}",
    "[fe80::1]:{port}",
    "2130706433",
    "0x7f.1",
    "",
    "[",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_name_that_was_rebound_reads_and_starts_nothing(site: Site, host: str) -> None:
    host = host.format(port=site.url.port)
    same = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}  # as the browser sees it
    for path in PATHS:
        status, text, headers = await site.send("GET", path, {"Host": host, **same})
        assert status == 403
        assert is_unreadable(headers)
        error = json.loads(text)["error"]
        assert error["type"] == "permission_error"
        assert error.get("code", "host_not_allowed") == "host_not_allowed"
        assert "server.allowed_hosts" in error["message"]
    posted = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json", **same}
    assert (await site.send("POST", CHAT, posted, HI))[0] == 403
    assert (await site.send("DELETE", f"{API}/responses/resp_1", posted))[0] == 403
    assert site.untouched


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LocalHost:{port}", "localhost.:1", "localhost:"),
        *("127.0.0.1:{port}", "127.8.9.1", "[::1]:9", "[::ffff:127.0.0.1]:80"),
    ],
)
async def test_loopback_is_served_by_its_names_with_any_port(site: Site, host: str) -> None:
    host = host.format(port=site.url.port)
    assert (await site.send("GET", f"{API}/models", {"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.0\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n",
    ],
)
async def test_a_host_that_is_not_said_once_and_clearly_is_refused(site: Site, head: bytes) -> None:
    answer = await raw(site, head + b"Connection: close\r\n\r\n")
    assert answer.split()[1] in (b"400", b"403")
    assert b'"object"' not in answer
    assert site.untouched


async def test_hosts_may_be_configured() -> None:
    async with over(keyed(allowed_hosts=["box.lan", "*.box.lan", "192.168.1.5"])) as site:
        told = {
            host: (await site.send("GET", f"{API}/models", {"Host": host}))[0]
            for host in ("box.lan", "BOX.lan:80", "a.box.lan", "192.168.1.5:8080", "localhost")
        }
        assert set(told.values()) == {200}
        for host in ("evil-box.lan", "box.lan.evil.example", "192.168.1.6", "box"):
            assert (await site.send("GET", f"{API}/models", {"Host": host}))[0] == 403


async def test_an_address_cannot_be_rebound_so_an_open_server_takes_any() -> None:
    async with over(keyed(insecure_no_auth=True)) as site:
        for host in ("192.168.1.5:8080", "[2001:db8::1]", "localhost"):
            assert (await site.send("GET", f"{API}/models", {"Host": host}))[0] == 200
        for host in ("evil.example", "box.lan"):
            assert (await site.send("GET", f"{API}/models", {"Host": host}))[0] == 403
        posted = {**FETCH, "Host": "192.168.1.5", "Content-Type": "application/json"}
        assert (await site.send("POST", CHAT, posted, HI))[0] == 403
        assert site.untouched


ORIGINS = [
    EVIL,
    "http://evil.example",
    "http://localhost",
    "http://localhost:{other}",
    "http://127.0.0.1:{other}",
    "https://127.0.0.1.evil.example:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://evil.example@127.0.0.1:{port}",
    "http://[::1]:{port}",
    "null",
    "file://",
    "chrome-extension://abcdefgh",
    "app://obsidian.md",
    "",
    "127.0.0.1:{port}",
    "ftp://127.0.0.1:{port}",
    "http://127.0.0.1:{port}, https://evil.example",
]
SIMPLE = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_page_of_another_origin_reads_and_starts_nothing(site: Site, origin: str) -> None:
    port = site.url.port or 0
    sent = {**FETCH, "Origin": origin.format(port=port, other=port - 1)}
    for path in PATHS:
        status, text, headers = await site.send("GET", path, sent)
        assert status == 403
        assert "pages of" in json.loads(text)["error"]["message"]
        assert is_unreadable(headers)
    for content_type in (*SIMPLE, "application/json"):
        posted = {**sent, "Content-Type": content_type}
        assert (await site.send("POST", CHAT, posted, HI))[0] == 403
    preflight = {"Access-Control-Request-Method": "POST"}
    preflight["Access-Control-Request-Headers"] = "authorization,content-type"
    status, _, headers = await site.send("OPTIONS", CHAT, {**sent, **preflight})
    assert status == 403
    assert is_unreadable(headers)
    assert site.untouched


@pytest.mark.parametrize("site_of", ["cross-site", "same-site"])
@pytest.mark.parametrize("dest", ["image", "script", "style", "iframe", "empty", "video"])
async def test_what_a_page_embeds_starts_nothing(site: Site, site_of: str, dest: str) -> None:
    """A browser tells no origin with these; it would not let the page read them either."""
    mode = "navigate" if dest == "iframe" else "no-cors"
    sent = {"Sec-Fetch-Site": site_of, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    for path in PATHS:
        status, text, _ = await site.send("GET", path, sent)
        assert status == 403
        assert "another site" in json.loads(text)["error"]["message"]
    assert site.untouched


async def test_a_link_from_another_site_can_be_followed_to_here(site: Site) -> None:
    followed = {**CROSS, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await site.send("GET", "/docs", followed))[0] == 200
    assert (await site.send("GET", "/openapi.json", followed))[0] == 200
    for path in ("/health", "/health/ready", f"{API}/models", "/metrics", "/docs/", "//docs"):
        assert (await site.send("GET", path, followed))[0] == 403
    # A form that is posted opens a page as well, but sends its origin.
    posted = {**followed, "Origin": EVIL, "Content-Type": SIMPLE[1]}
    assert (await site.send("POST", CHAT, posted, b'{"model": "fake"}='))[0] == 403
    assert (await site.send("POST", CHAT, followed, HI))[0] == 403
    assert site.untouched


async def test_typed_addresses_and_the_servers_own_pages_are_served(site: Site) -> None:
    typed = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await site.send("GET", "/docs", typed))[0] == 200
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    assert (await site.send("GET", "/openapi.json", own))[0] == 200
    for scheme in ("http", "https"):  # the latter behind something that speaks TLS for it
        posted = {**own, "Origin": f"{scheme}://{site.here}", "Content-Type": "application/json"}
        assert (await site.send("POST", CHAT, posted, HI))[0] == 200
    assert (await site.send("GET", f"{API}/models", {"Sec-Fetch-Mode": "cors"}))[0] == 200  # node


BODIES = [*SIMPLE, None, "application/octet-stream", "text/json", "application/jsonp"]
BODIES += ["text/plain; application/json", "application/json-patch+json", "", "json", "*/*"]


@pytest.mark.parametrize("headers", [NO_KEYS, as_("alice")], ids=["open", "keyed"])
@pytest.mark.parametrize("content_type", BODIES)
async def test_only_json_bodies_are_taken(
    headers: dict[str, str], content_type: str | None
) -> None:
    keys = [entry("alice")] if headers else []
    sent = headers if content_type is None else {**headers, "Content-Type": content_type}
    async with over(keyed(*keys)) as site:
        for path in (CHAT, "/v1/completions", "/v1/responses", "/anthropic/v1/messages"):
            status, text, told = await site.send("POST", path, sent, HI)
            assert (status, told["x-should-retry"]) == (415, "false")
            error = json.loads(text)["error"]
            assert error["type"] == "invalid_request_error"
            assert "send it with the header 'Content-Type: application/json'" in error["message"]
        assert site.untouched


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "Application/JSON"),
        *("application/json;charset=utf-8", "application/json ; charset=UTF-8"),
    ],
)
async def test_json_bodies_are_taken_however_they_say_it(site: Site, content_type: str) -> None:
    assert (await site.send("POST", CHAT, {"Content-Type": content_type}, HI))[0] == 200


async def test_two_content_types_are_none(site: Site) -> None:
    body = json.dumps(HI)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {site.here}\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    types = "Content-Type: application/json\r\nContent-Type: text/plain\r\n"
    answer = await raw(site, f"{head}{types}\r\n{body}".encode())
    assert answer.split()[1] in (b"400", b"415")
    assert site.untouched


async def test_a_request_without_a_body_needs_no_type(site: Site) -> None:
    assert (await site.send("POST", CHAT, {}))[0] == 400  # an empty body is no request
    assert (await site.send("POST", f"{API}/responses/resp_1/cancel", {}))[0] == 404
    assert (await site.send("DELETE", f"{API}/responses/resp_1", {}))[0] == 404


@pytest.mark.parametrize("origin", [None, EVIL, "null"])
async def test_a_websocket_gets_nowhere(site: Site, origin: str | None) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    if origin is not None:
        upgrade |= {"Origin": origin, **CROSS, "Sec-Fetch-Mode": "websocket"}
    for path in (*PATHS, CHAT):
        status, _, headers = await site.send("GET", path, upgrade)
        assert status != 101
        assert origin is None or (status == 403 and is_unreadable(headers))
    assert site.backend.turns == []


async def test_no_route_takes_anything_of_another_origins_page(site: Site) -> None:
    routes = create_app(keyed()).router.routes()
    asked = [(r.method, r.resource.canonical.replace("{id}", "x")) for r in routes if r.resource]
    assert len(asked) > 30
    for method, path in asked:
        for content_type in SIMPLE:
            sent = {**FETCH, "Content-Type": content_type}
            body = None if method in ("GET", "HEAD") else b"--x--"
            assert (await site.send(method, path, sent, body))[0] == 403
    assert site.untouched
