"""Images by address, through the whole server, by who wants to reach what only this machine can.

A listener on loopback stands for everything internal: whatever the address, the redirect or the
name server says, nobody comes to it, and the server says 400 and lives.
"""

import asyncio
import gzip
import ipaddress
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from clinvk import fetch
from clinvk.capabilities import Level
from clinvk.config import FetchConfig, ServerConfig
from clinvk.errors import BadRequestError
from clinvk.media import read_image
from clinvk.server.app import create_app
from clinvk.turn import ImagePart
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving
from tests.sites import CONTENT

HUNG_S = 30  # a guard against hanging tests, not a measure
PUBLIC = "93.184.215.14"


@dataclass
class Internal:
    """What only this machine can reach, at loopback in both families, and who came to it."""

    port: int = 0
    visits: list[Any] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Internal"]:
        def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.visits.append(writer.get_extra_info("peername"))
            writer.close()

        servers = [await asyncio.start_server(visited, "127.0.0.1", 0)]
        self.port = servers[0].sockets[0].getsockname()[1]
        servers.append(await asyncio.start_server(visited, "::1", self.port))
        try:
            yield self
        finally:
            for server in servers:
                server.close()
                await server.wait_closed()


class Names:
    """A name server: what each name leads to, one answer after the other; the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise OSError(f"no such host: {host}")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """All names are looked up here."""
    found = Names()

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        rows = []
        for address in found.resolve(host):
            six = ":" in address
            place = (address, port, 0, 0) if six else (address, port)
            family = socket.AF_INET6 if six else socket.AF_INET
            rows.append((family, socket.SOCK_STREAM, 6, "", place))
        return rows

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return found


@pytest.fixture
async def internal() -> AsyncIterator[Internal]:
    async with Internal().running() as running:
        yield running


Ask = Callable[..., Any]


@asynccontextmanager
async def asking(**limits: Any) -> AsyncIterator[tuple[Ask, ScriptBackend]]:
    """Ask a server about an image; gives the status and the body of the reply."""
    backend = ScriptBackend()
    backend.capabilities = replace(backend.capabilities, image_urls=Level.EMULATED)
    made = script_config()
    server = ServerConfig(fetch=FetchConfig(timeout_s=limits.pop("timeout_s", 5), **limits))
    app = create_app(made.model_copy(update={"server": server}), build=builder(backend))
    async with serving(app) as url, aiohttp.ClientSession() as http:

        async def ask(*urls: str, stream: bool = False) -> tuple[int, str]:
            parts = [{"type": "image_url", "image_url": {"url": each}} for each in urls]
            body = {
                "model": "fake",
                "stream": stream,
                "messages": [{"role": "user", "content": parts}],
            }
            with anyio.fail_after(HUNG_S):
                async with http.post(f"{url}{API}/chat/completions", json=body) as response:
                    return response.status, await response.text()

        yield ask, backend


def forms(port: int) -> list[str]:
    """Ways to write the address of this machine, or of others that no caller may reach."""
    hosts = (
        *("127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "0x7f.1", "0x7f000001", "2130706433"),
        *("017700000001", "0177.0.0.1", "0177.0.0.0x1", "127.0.0.1.", "127.255.255.254", "127.1."),
        *("00000000177.0.0.1", "127.0.0.01", "4294967295", "2130706433.", "0x7F.0X1", "1.0x"),
        *("\uff11\uff12\uff17.0.0.1", "127\u30020\uff0e0\uff611", "\u2460\u2461\u2466.0.0.1"),
        *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *("[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]"),
        *("[2001:0:7f00:1::]", "[fe80::1%25lo]", "[fe80::1]", "[fc00::1]", "[::1%25lo]"),
        *("[::ffff:0:127.0.0.1]", "[0000::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]"),
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "ip6-localhost", "loopback"),
        *("10.0.0.1", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "198.18.0.1"),
        *("224.0.0.1", "255.255.255.255", "192.0.0.8", "240.0.0.1", "192.88.99.1", "0.1.2.3"),
        *("metadata.google.internal", "user@127.0.0.1", "a:b@127.0.0.1", "a%40b@127.0.0.1"),
        *(f"{PUBLIC}@127.0.0.1", f"127.0.0.1#@{PUBLIC}", f"127.0.0.1\\@{PUBLIC}", "127.0.0.1%00"),
        *("127.0.0.1%2f", "%31%32%37.0.0.1", "127.0.0.1%0d%0aX: y", "127.0.0.1 ", "\t127.0.0.1"),
    )
    return [f"http://{host}:{port}/a.png" for host in hosts]


async def test_no_way_to_write_an_address_leads_inside(internal: Internal, names: Names) -> None:
    for name in (
        "localhost",
        "a.localhost",
        "ip6-localhost",
        "loopback",
        "metadata.google.internal",
    ):
        names.answers[name] = [["127.0.0.1", "::1"]]
    async with asking() as (ask, backend):
        for url in forms(internal.port):
            for given in (url, url.replace("http://", "HtTp://"), url.replace("http", "https")):
                status, body = await ask(given)
                assert status == 400, (given, body)
                assert "messages[0].content[0]" in body
        assert backend.turns == []
    assert internal.visits == []


async def test_nothing_is_looked_up_for_other_schemes(internal: Internal, names: Names) -> None:
    schemes = ("file", "ftp", "gopher", "dict", "ldap", "unix", "javascript", "blob", "jar", "")
    async with asking() as (ask, _):
        for scheme in schemes:
            _, body = await ask(f"{scheme}://127.0.0.1:{internal.port}/etc/passwd")
            assert "root:" not in body
    assert internal.visits == []
    assert names.asked == []
    for scheme in schemes:
        with pytest.raises(BadRequestError):
            read_image(ImagePart(url=f"{scheme}://127.0.0.1/etc/passwd"), "a")


@pytest.mark.parametrize(
    "inside",
    [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "10.0.0.1",
        "169.254.169.254",
        "::",
    ],
)
async def test_a_name_that_leads_inside_is_refused(
    internal: Internal, names: Names, inside: str
) -> None:
    names.answers["evil.example"] = [[inside]]
    async with asking() as (ask, _):
        status, body = await ask(f"http://evil.example:{internal.port}/")
        assert status == 400
        assert "public address" in body
        assert inside not in body
    assert internal.visits == []


class Outside:
    """A site of the open internet: a public address that is taken to be this listener's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.port = 0
        self.reply: Callable[[web.Request], Any] = lambda _: web.Response(body=CONTENT["/a.png"])
        self.asked: list[str] = []
        public = fetch.is_public
        # Connecting to it must work here, so this one address of loopback counts as public.
        patch.setattr(
            fetch,
            "is_public",
            lambda found: found == ipaddress.ip_address("127.0.0.99") or public(found),
        )

    @property
    def url(self) -> str:
        return f"http://out.example:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Outside"]:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.asked.append(request.path)
            found = self.reply(request)
            response: web.StreamResponse = await found if asyncio.iscoroutine(found) else found
            return response

        app = web.Application()
        app.router.add_get("/{rest:.*}", answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.99", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
async def outside(names: Names, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outside]:
    names.answers["out.example"] = [["127.0.0.99"]]
    async with Outside(monkeypatch).running() as running:
        yield running


async def test_what_is_outside_is_fetched(outside: Outside) -> None:
    async with asking() as (ask, backend):
        status, body = await ask(f"{outside.url}/a.png")
        assert status == 200, body
        assert len(backend.turns) == 1


def led_on(request: web.Request, *, to: str, code: int) -> web.Response:
    """Lead from the first address to the last, and from there inside."""
    if request.path == "/last":
        return web.Response(status=code, headers={"Location": to})
    return web.Response(status=302, headers={"Location": "/last"})


async def test_a_redirect_leads_inside_by_no_form(
    internal: Internal, outside: Outside, names: Names
) -> None:
    names.answers["localhost"] = names.answers["in.example"] = [["127.0.0.1", "::1"]]
    ways = [*forms(internal.port), f"//127.0.0.1:{internal.port}/", "file:///etc/passwd"]
    ways += [f"http://in.example:{internal.port}/", f"\\\\127.0.0.1:{internal.port}", "http://["]
    async with asking() as (ask, _):
        for status in (301, 302, 303, 307, 308):
            for way in ways if status == 302 else ways[:1]:
                location = way.encode("ascii", "ignore").decode().replace("\t", "")
                outside.reply = partial(led_on, to=location, code=status)
                code, body = await ask(f"{outside.url}/first")
                assert code == 400, (way, body)
    assert internal.visits == []


async def test_redirects_come_to_an_end(outside: Outside) -> None:
    outside.reply = lambda _: web.Response(status=302, headers={"Location": "/again"})
    async with asking(max_redirects=3) as (ask, _):
        status, body = await ask(f"{outside.url}/")
        assert (status, len(outside.asked)) == (400, 4)
        assert "max_redirects" in body


async def test_a_name_that_changes_its_mind_is_held_to_what_was_checked(
    internal: Internal, names: Names, outside: Outside
) -> None:
    names.answers["turns.example"] = [[PUBLIC], ["127.0.0.1"]]
    names.answers["both.example"] = [["127.0.0.1", "::1", "127.0.0.99"]]
    async with asking(timeout_s=1) as (ask, _):
        # The public address does not answer here; the second look would lead inside.
        for _ in range(3):
            status, _ = await ask(f"http://turns.example:{internal.port}/")
            assert status == 400
        assert names.asked.count("turns.example") == 3
        status, _ = await ask(f"http://both.example:{outside.port}/a.png")
        assert status == 200
    assert internal.visits == []


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(CONTENT["/a.png"])
    while True:
        await response.write(b"\0" * 65_536)


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"\0")
        await asyncio.sleep(0.05)


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(HUNG_S)
    return web.Response()


def packed(_: web.Request) -> web.Response:
    bomb = gzip.compress(CONTENT["/a.png"] + bytes(64 * 1024 * 1024))
    return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})


def deflated(_: web.Request) -> web.Response:
    bomb = zlib.compress(bytes(64 * 1024 * 1024))
    return web.Response(body=bomb, headers={"Content-Encoding": "deflate"})


def told_as_png(content: bytes) -> Callable[[web.Request], web.Response]:
    return lambda _: web.Response(body=content, content_type="image/png")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
BAD_SITES: dict[str, Callable[[web.Request], Any]] = {
    "endless": endless,
    "slow": slow,
    "silent": silent,
    "gzip": packed,
    "deflate": deflated,
    "svg": told_as_png(SVG),
    "html": told_as_png(b"<!doctype html><img src=x>"),
    "empty": told_as_png(b""),
    "bmp": told_as_png(b"BM" + bytes(100)),
    "missing": lambda _: web.Response(status=404),
    "login": lambda _: web.Response(status=401, headers={"WWW-Authenticate": "Basic"}),
    "nothing": lambda _: web.Response(status=204),
    "part": lambda _: web.Response(status=206, body=CONTENT["/a.png"]),
    "headers": lambda _: web.Response(headers={f"X-{i}": "x" * 4000 for i in range(50)}),
}


@pytest.mark.parametrize("site", BAD_SITES)
async def test_a_site_that_means_harm_is_a_400_within_its_limits(
    outside: Outside, site: str
) -> None:
    outside.reply = BAD_SITES[site]
    async with asking(timeout_s=1, max_mb=1) as (ask, backend):
        for stream in (False, True):
            status, body = await ask(f"{outside.url}/a.png", stream=stream)
            assert status == 400, body
            assert "etc/passwd" not in body
        assert backend.turns == []
        outside.reply = told_as_png(CONTENT["/a.png"])
        assert (await ask(f"{outside.url}/a.png"))[0] == 200


async def test_many_images_share_one_allowance(outside: Outside) -> None:
    outside.reply = told_as_png(CONTENT["/a.png"] + bytes(300_000))
    async with asking(max_mb=1) as (ask, _):
        assert (await ask(*(f"{outside.url}/{n}" for n in range(3))))[0] == 200
        assert (await ask(*(f"{outside.url}/{n}" for n in range(8))))[0] == 400


async def test_what_is_fetched_brings_nothing_of_this_machine_along(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    seen: list[Any] = []

    def reply(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(
            body=CONTENT["/a.png"], headers={"Set-Cookie": "a=b; Domain=out.example"}
        )

    outside.reply = reply
    async with asking() as (ask, _):
        for _ in range(2):
            assert (await ask(f"{outside.url}/a.png"))[0] == 200
    for headers in seen:
        assert not {"Cookie", "Authorization", "Referer", "X-Request-Id"} & set(headers)
