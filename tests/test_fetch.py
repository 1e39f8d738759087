"""Images by address: what is fetched, and where clinvk never goes."""

import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from clinvk import fetch
from clinvk.config import FetchConfig
from clinvk.errors import BadRequestError
from clinvk.fetch import Fetcher, is_public
from clinvk.media import Image, read_image
from clinvk.turn import ImagePart, Message, Role, TextPart, Turn
from tests.sites import CONTENT, HOST, Site
from tests.test_media import GIF, PNG, WEBP


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().running() as running:
        yield running


def config(**fields: Any) -> FetchConfig:
    return FetchConfig(**{"allow_private": [HOST], **fields})


def shown(*urls: str) -> Turn:
    parts = tuple(ImagePart(url=url) for url in urls)
    return Turn("m", (Message(Role.USER, (TextPart("see"), *parts)),))


async def fetched(turn: Turn, **fields: Any) -> list[Image]:
    with anyio.fail_after(30):
        got = await Fetcher(config(**fields)).turn(turn)
    return [
        read_image(part, "p")
        for message in got.messages
        for part in message.parts
        if isinstance(part, ImagePart)
    ]


async def refusal(turn: Turn, **fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        await fetched(turn, **fields)
    return caught.value


async def test_images_take_the_place_of_their_addresses(site: Site) -> None:
    data = ImagePart(media_type="image/webp", data=WEBP)
    turn = Turn(
        "m",
        (
            Message(Role.USER, (TextPart("a"), ImagePart(url=f"{site.url}/a.png"), data)),
            Message(Role.TOOL, (ImagePart(url=f"{site.url}/a.gif"),), call_id="c"),
        ),
    )
    with anyio.fail_after(30):
        got = await Fetcher(config()).turn(turn)
    assert got.messages == (
        Message(Role.USER, (TextPart("a"), ImagePart(media_type="image/png", data=PNG), data)),
        Message(Role.TOOL, (ImagePart(media_type="image/gif", data=GIF),), call_id="c"),
    )


async def test_each_address_is_fetched_once_and_as_nobody(site: Site) -> None:
    url = f"{site.url}/a.png"
    assert len(await fetched(shown(url, url, f"{url}?2", url))) == 4
    assert sorted(request.path_qs for request in site.asked) == ["/a.png", "/a.png?2"]
    names = {name.lower() for name in site.asked[0].headers}
    assert names == {"host", "accept", "accept-encoding", "user-agent", "connection"}


async def test_a_turn_without_addresses_asks_nobody() -> None:
    turn = Turn("m", (Message(Role.USER, (TextPart("a"), ImagePart(data=PNG))),))
    assert (await Fetcher(FetchConfig()).turn(turn)) == turn


async def test_an_image_in_small_pieces_is_whole(site: Site) -> None:
    assert await fetched(shown(f"{site.url}/pieces")) == [Image("image/png", PNG)]


async def test_redirects_are_followed_without_cookies(site: Site) -> None:
    url = f"{site.url}/x?to=/y%3Fto%3D/a.png"
    assert await fetched(shown(url)) == [Image("image/png", PNG)]
    assert [request.path for request in site.asked] == ["/x", "/y", "/a.png"]
    assert all("Cookie" not in request.headers for request in site.asked)


async def test_a_machines_proxy_is_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await fetched(shown(f"{site.url}/a.png")) == [Image("image/png", PNG)]


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/page", {}, "none of PNG"),
        ("/none", {}, "status 404"),
        ("/a.png", {"max_mb": 0.00001}, "over 1e-05 MB"),
        ("/x?to=/a.png", {"max_redirects": 0}, "more than 0 redirects"),
        ("/x?to=ftp://127.0.0.1/a.png", {}, "'ftp' address"),
        ("/x?to=file:///etc/passwd", {}, "'file' address"),
        ("/x?to=http://u:p@127.0.0.1/a.png", {}, "user name or a password"),
        ("/x?to=http://127.0.0.2/a.png", {}, "'127.0.0.2' is not at a public address"),
        ("/x?to=http://localhost/a.png", {}, "'localhost' is not at a public address"),
        ("/x?to=http://[::1]/a.png", {}, "'::1' is not at a public address"),
        ("/x?to=http://h:99999/", {}, "Port"),
        ("/hangs", {"timeout_s": 0.1}, "longer than 0.1 s"),
    ],
)
async def test_what_cannot_be_had_is_refused_by_its_place(
    site: Site, path: str, fields: dict[str, Any], said: str
) -> None:
    refused = await refusal(shown(f"{site.url}{path}"), **fields)
    assert said in refused.message
    assert "data URL" in refused.message
    assert refused.param == "messages[0].content[1]"


async def test_the_images_of_a_request_share_one_allowance(site: Site) -> None:
    size = len(CONTENT["/a.png"]) * 1.5 / 1024 / 1024
    assert await fetched(shown(f"{site.url}/a.png"), max_mb=size)
    refused = await refusal(shown(f"{site.url}/a.png?1", f"{site.url}/a.png?2"), max_mb=size)
    assert "server.fetch.max_mb" in refused.message


async def test_what_a_connection_fails_by_is_told() -> None:
    refused = await refusal(shown(f"http://{HOST}:1/a.png"))
    assert "onnect" in refused.message


async def test_news_are_named_by_their_place_in_the_whole_request(site: Site) -> None:
    news = shown(f"{site.url}/a.png", f"{site.url}/none").messages
    with pytest.raises(BadRequestError) as caught, anyio.fail_after(30):
        await Fetcher(config()).messages(news, first=4)
    assert caught.value.param == "messages[4].content[2]"


async def test_one_that_fails_stops_the_others(site: Site) -> None:
    refused = await refusal(shown(f"{site.url}/hangs", f"{site.url}/none"))
    assert refused.param == "messages[0].content[2]"


async def test_a_cancelled_turn_stops_the_fetch(site: Site) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(Fetcher(config()).turn, shown(f"{site.url}/hangs"))
        with anyio.fail_after(30):
            await site.held.wait()
            group.cancel_scope.cancel()
    with anyio.fail_after(30):
        await site.gone.wait()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1./",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://8.8.8.010/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127。0。0。1/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/",
        "http://192.0.2.1/",
        "http://192.88.99.1/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://[::]/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:1::1]/",
        "http://[2001:db8::1]/",
        "http://[fc00::1]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25lo]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://user@example.com/",
        "http://:secret@example.com/",
        "http://",
    ],
)
async def test_nothing_private_is_reached_however_it_is_written(url: str) -> None:
    refused = await refusal(shown(url), allow_private=[])
    assert refused.param == "messages[0].content[1]"
    assert not any(word in refused.message for word in ("onnect", "status", "secret"))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


class Names:
    """The system's resolver, with answers that change."""

    def __init__(self, patch: pytest.MonkeyPatch, **answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", "."): addresses for name, addresses in answers.items()}
        self._system = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, port: Any, *args: Any, **fields: Any) -> Any:
        if host not in self._answers:
            return self._system(host, port, *args, **fields)
        self.asked.append(host)
        addresses = self._answers[host]
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in address.split()]


async def test_a_name_is_what_it_leads_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, inside_test=["10.0.0.1 127.0.0.1"], there_test=[HOST])
    refused = await refusal(shown(f"http://inside.test:{site.port}/a.png"))
    assert "'inside.test' is not at a public address" in refused.message
    url = f"http://there.test:{site.port}/a.png"
    assert "not at a public address" in (await refusal(shown(url))).message
    assert await fetched(shown(url), allow_private=["THERE.test"])


async def test_an_answer_that_changes_is_asked_for_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch, rebinding_test=["10.9.9.9 127.0.0.1", "127.0.0.2"])
    # The only server that a test may reach stands for a public one.
    monkeypatch.setattr(fetch, "is_public", lambda address: str(address) == HOST)
    assert await fetched(shown(f"http://rebinding.test:{site.port}/a.png"), allow_private=[])
    assert names.asked == ["rebinding.test"]
    refused = await refusal(shown(f"http://rebinding.test:{site.port}/a.png"), allow_private=[])
    assert "not at a public address" in refused.message
