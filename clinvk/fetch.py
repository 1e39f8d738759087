"""Images that a caller names by address, fetched for the CLIs that cannot fetch them.

Owns where clinvk may go for a caller, and how much it takes from there; knows no CLI. Whoever
sends a request chooses the address, so nothing that only this machine can reach is reached,
unless `server.fetch` in backends.yaml says so.

    URL -> is it allowed -> resolve -> are the addresses public -> connect to one of these
"""

import base64
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import anyio
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from clinvk import __version__
from clinvk.config import FetchConfig
from clinvk.errors import BadRequestError
from clinvk.media import TYPE_BYTES, image_type, is_remote
from clinvk.turn import ImagePart, Message, Turn

AT_ONCE = 8  # images of one turn

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "Accept": "image/png, image/jpeg, image/gif, image/webp",
    "Accept-Encoding": "identity",  # what is packed would be larger than what was counted
    "User-Agent": f"clinvk/{__version__}",
}
# What the URL standard takes for an IPv4 address, however it is written: 2130706433, 0x7f.1 …
_NUMBER_AT_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_TUNNELS = tuple(
    ipaddress.ip_network(net)
    for net in ("2001::/32", "2002::/16", "192.88.99.0/24")  # Teredo, 6to4, its relays
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # how a network without IPv4 reaches IPv4


class _RefusedError(Exception):
    """Why an image cannot be had; for the caller."""


class Fetcher:
    """Fetches the images of a turn, each address once; remembers nothing."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._allowed = frozenset(host.lower() for host in config.allow_private)

    async def turn(self, turn: Turn) -> Turn:
        """Return the turn with every image by content.

        Raises:
            BadRequestError: naming the part whose image cannot be had, and why.
        """
        return replace(turn, messages=await self.messages(turn.messages))

    async def messages(self, messages: Sequence[Message], *, first: int = 0) -> tuple[Message, ...]:
        """Return messages with every image by content; `first` is the number of the first one.

        Raises:
            BadRequestError: naming the part whose image cannot be had, and why.
        """
        wanted: dict[str, str] = {}
        for at, message in enumerate(messages, first):
            for position, part in enumerate(message.parts):
                if isinstance(part, ImagePart) and is_remote(part) and part.url is not None:
                    wanted.setdefault(part.url, f"messages[{at}].content[{position}]")
        if not wanted:
            return tuple(messages)
        found = await self._all(wanted)
        return tuple(
            replace(
                message,
                parts=tuple(
                    found.get(part.url or "", part) if isinstance(part, ImagePart) else part
                    for part in message.parts
                ),
            )
            for message in messages
        )

    async def _all(self, wanted: dict[str, str]) -> dict[str, ImagePart]:
        found: dict[str, ImagePart] = {}
        refused: list[BadRequestError] = []
        places = anyio.Semaphore(AT_ONCE)
        allowance = _Allowance(self._config.max_mb)

        async def fetch(url: str, param: str) -> None:
            try:
                async with places:
                    found[url] = await self._image(session, url, allowance)
            except _RefusedError as exc:
                refused.append(
                    BadRequestError(
                        f"the image cannot be fetched: {exc}; or send it as a data URL "
                        "(data:image/png;base64,…)",
                        param=param,
                    )
                )
                group.cancel_scope.cancel()

        async with _session(self._allowed) as session, anyio.create_task_group() as group:
            for url, param in wanted.items():
                group.start_soon(fetch, url, param)
        if refused:
            raise refused[0]
        return found

    async def _image(
        self, session: aiohttp.ClientSession, url: str, allowance: "_Allowance"
    ) -> ImagePart:
        try:
            with anyio.fail_after(self._config.timeout_s):
                return await self._follow(session, URL(url), allowance)
        except TimeoutError:
            raise _RefusedError(
                f"it took longer than {self._config.timeout_s:g} s (server.fetch.timeout_s)"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _RefusedError(str(exc) or type(exc).__name__) from exc

    async def _follow(
        self, session: aiohttp.ClientSession, url: URL, allowance: "_Allowance"
    ) -> ImagePart:
        for _ in range(self._config.max_redirects + 1):
            self._require_allowed(url)
            async with session.get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    url = url.join(URL(response.headers["Location"]))
                    continue
                if response.status != 200:
                    raise _RefusedError(f"{url.host} answered with status {response.status}")
                return await _read(response, allowance)
        raise _RefusedError(
            f"it is behind more than {self._config.max_redirects} redirects "
            "(server.fetch.max_redirects)"
        )

    def _require_allowed(self, url: URL) -> None:
        """Check what the URL itself says; where a name leads is the resolver's to check."""
        if url.scheme not in {"http", "https"}:
            raise _RefusedError(f"it leads to a {url.scheme!r} address, not http or https")
        if url.user is not None or url.password is not None:
            raise _RefusedError("its address holds a user name or a password; leave them out")
        host = url.raw_host or ""
        if host.lower() in self._allowed:
            return
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if _NUMBER_AT_END.fullmatch(host):
                raise _RefusedError(f"{host!r} is no way to write a host") from None
            return
        if not is_public(address):
            raise _not_public(host)


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet's, in no disguise."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_V6:  # the mapped forms of IPv4 are not, either
            return False
    if any(address in net for net in _TUNNELS if net.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _not_public(host: str) -> _RefusedError:
    return _RefusedError(
        f"{host!r} is not at a public address (server.fetch.allow_private can name it)"
    )


class _Resolver(AbstractResolver):
    """Gives public addresses alone: what it gives is what is connected to."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        if host.lower() in self._allowed:
            return found
        public = [one for one in found if is_public(ipaddress.ip_address(one["host"]))]
        if not public:
            raise _not_public(host)
        return public

    async def close(self) -> None:
        await self._system.close()


class _Allowance:
    """How many bytes the images of one turn may still have."""

    def __init__(self, max_mb: float) -> None:
        self._max_mb = max_mb
        self._left = int(max_mb * 1024 * 1024)

    def take(self, size: int) -> None:
        """Count bytes that have come.

        Raises:
            _RefusedError: if there are too many.
        """
        self._left -= size
        if self._left < 0:
            raise _RefusedError(
                f"the images of the request are over {self._max_mb:g} MB (server.fetch.max_mb)"
            )


@asynccontextmanager
async def _session(allowed: frozenset[str]) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client without cookies, proxies, caches and anything else of this machine's."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=_Resolver(allowed), use_dns_cache=False, force_close=True
        ),
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
    )
    try:
        yield session
    finally:
        with anyio.CancelScope(shield=True):
            await session.close()


async def _read(response: aiohttp.ClientResponse, allowance: _Allowance) -> ImagePart:
    content = bytearray()
    media_type: str | None = None
    async for chunk in response.content.iter_any():
        allowance.take(len(chunk))
        content += chunk
        if media_type is None and len(content) >= TYPE_BYTES:
            media_type = _type_of(content)
    return ImagePart(
        media_type=media_type or _type_of(content), data=base64.b64encode(content).decode()
    )


def _type_of(content: bytes | bytearray) -> str:
    found = image_type(bytes(content[:TYPE_BYTES]))
    if found is None:
        raise _RefusedError("what is there is none of PNG, JPEG, GIF and WebP")
    return found
