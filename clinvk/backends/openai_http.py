"""The connections to an OpenAI-compatible server: its address, its key, retries, its models.

Owns what is sent along and what comes back of the headers; knows nothing of what bodies mean.
The server is the operator's own choice, so its address may be a private one.
"""

import json
import logging
import os
import random
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import anyio

from clinvk import __version__
from clinvk.backends.openai_errors import failure, retry_after
from clinvk.config import OpenAIConfig
from clinvk.errors import ClinvkError, CliProtocolError, UpstreamError, UpstreamUnreachableError
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import remember

CONNECT_S = 10.0
RETRY_S = 0.25  # before the first retry; doubled for each further
RETRIED = frozenset({502, 503, 504})
RETRY_AFTER_S = 5.0  # who asks for a longer wait is not asked again: its caller hears of it
BODY_BYTES = 1024 * 1024  # of an error
LIST_BYTES = 32 * 1024 * 1024  # of a list of models: that of a large router has some 2 kB for each

UNPACKED_BYTES = 1024 * 1024  # at once: a little may unpack to a lot
_WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}

# Of a caller's headers these are passed on; any other may be for clinvk, or a secret.
_SENT = frozenset(
    {"accept", "content-type", "idempotency-key", "traceparent", "tracestate", "user-agent"}
    | {"openai-beta", "x-client-request-id"}
)
_SENT_PREFIX = "x-stainless-"
# These belong to the key that they are sent with.
_OF_KEY = frozenset({"openai-organization", "openai-project"})

# Of a reply's headers these are not: they are of its connection, its host, or its browser.
_KEPT_BACK = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "date", "server", "set-cookie", "via"}
    | {"alt-svc", "strict-transport-security", "www-authenticate", "vary", "nel", "report-to"}
    | {"content-security-policy", "x-request-id", "request-id"}
)
_KEPT_BACK_PREFIXES = ("access-control-", "cross-origin-", "x-clinvk-")

BASE_URL_FIX = "its base_url must be what OpenAI's clients take, most often with /v1 at its end"

_log = logging.getLogger(__name__)


class Upstream:
    """Sends requests to one server, over connections that are kept."""

    def __init__(self, name: str, config: OpenAIConfig, supervisor: Supervisor) -> None:
        self._name = name
        self._config = config
        self._supervisor = supervisor
        self._base = config.base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._closing = anyio.Event()
        # By the names of variables, as those of programs: what no error may repeat.
        remember({name.replace("-", "_"): value for name, value in config.headers.items()})
        remember({"API_KEY": config.api_key or ""})

    def close(self) -> None:
        """Begin to close every connection."""
        self._closing.set()

    def headers(self, asked: Mapping[str, str], key: str | None) -> dict[str, str]:
        """Return the headers to send: of a caller's those that concern it, and the key."""
        forwarded = key if self._config.forward_key else None
        sent = {"Accept-Encoding": "identity", "User-Agent": f"clinvk/{__version__}"}
        for name, value in asked.items():
            lower = name.lower()
            passes = lower in _SENT or lower.startswith(_SENT_PREFIX)
            if passes or (forwarded is not None and lower in _OF_KEY):
                sent[name.title()] = value
        if (shown := forwarded or self._config.api_key) is not None:
            sent["Authorization"] = f"Bearer {shown}"
        return {**sent, **self._config.headers}

    @asynccontextmanager
    async def send(
        self,
        method: str,
        endpoint: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give the reply once its head is there; leaving ends it.

        One that may not have been taken is tried again, unless its body has begun to flow.

        Raises:
            UpstreamUnreachableError: if there is no reply.
        """
        retries = self._config.retries if body is None or isinstance(body, bytes) else 0
        response = await self._answered(method, endpoint, headers, body, retries)
        try:
            yield response
        finally:
            response.close()  # which a reply that has come to its end has already done

    async def _answered(
        self,
        method: str,
        endpoint: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
        retries: int,
    ) -> aiohttp.ClientResponse:
        for left in range(retries, -1, -1):
            asked_s = 0.0
            try:
                response = await self._client().request(
                    method, f"{self._base}/{endpoint}", headers=headers, data=body,
                    allow_redirects=False,
                )  # fmt: skip
            except (aiohttp.ClientError, OSError) as exc:
                if not left:
                    raise self._unreachable(exc) from exc
                _log.info("backend %s is tried again: %s", self._name, exc)
            else:
                if response.status < 200:  # 101: what follows would be no HTTP
                    response.close()
                    raise UpstreamError(
                        f"the server of backend {self._name!r} answered with status "
                        f"{response.status}, for which nobody asked; {BASE_URL_FIX}"
                    )
                if 300 <= response.status < 400:
                    response.close()
                    raise UpstreamError(
                        f"the server of backend {self._name!r} redirects; "
                        "set its base_url to where it leads"
                    )
                asked_s = retry_after(response.headers) or 0.0
                if response.status not in RETRIED or not left or asked_s > RETRY_AFTER_S:
                    return response
                response.close()
            wait_s = RETRY_S * 2.0 ** (retries - left) * random.uniform(0.5, 1)  # noqa: S311 - spreads
            await anyio.sleep(max(wait_s, asked_s))
        raise AssertionError("unreachable")

    async def pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            UpstreamUnreachableError: if it breaks off.
        """
        try:
            async for piece in response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as exc:
            raise self._unreachable(exc) from exc

    async def small_body(self, response: aiohttp.ClientResponse, most: int = BODY_BYTES) -> bytes:
        """Return the start of a body, of which no more is wanted."""
        body = bytearray()
        async for piece in plain(response, self.pieces(response)):
            body += piece
            if len(body) > most:
                break
        return bytes(body[:most])

    async def models(self) -> list[str]:
        """Return the ids that the server lists.

        Raises:
            ClinvkError: if it does not.
        """
        async with self.send("GET", "models", self.headers({}, None)) as response:
            body = await self.small_body(response, LIST_BYTES)
            if response.status != 200:
                raise error_of(response, body)
        try:
            told = json.loads(body)
            # Together's is a bare list, and Ollama's null while it has no models.
            listed = (told["data"] if isinstance(told, dict) else told) or ()
            rows = [row for row in listed if isinstance(row, dict)]
        except (ValueError, LookupError, TypeError):
            raise UpstreamError(f"backend {self._name!r} lists no models; {BASE_URL_FIX}") from None
        return [row["id"] for row in rows if isinstance(row.get("id"), str)]

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the gate has the limit
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                trust_env=False,
            )
            self._supervisor.start(self._held)
        return self._session

    async def _held(self) -> None:
        try:
            await self._closing.wait()
        finally:
            session, self._session = self._session, None
            with anyio.CancelScope(shield=True):
                if session is not None:
                    await session.close()

    def _unreachable(self, exc: Exception) -> UpstreamUnreachableError:
        _log.info("backend %s: %s", self._name, exc)
        return UpstreamUnreachableError(
            f"the connection of backend {self._name!r} to its server failed: {_reason(exc)}"
        )


def _reason(exc: Exception) -> str:
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    number = cause.errno if isinstance(cause, OSError) else None
    if number:
        return os.strerror(number).lower()
    match cause:
        case aiohttp.ServerDisconnectedError():
            return "it hung up"
        case aiohttp.ClientPayloadError():
            return "its reply broke off"
        case aiohttp.ClientResponseError():
            return "its reply is no HTTP"
        case TimeoutError():
            return "it took too long to connect"
        case _:
            return type(cause).__name__


def reply_headers(response: aiohttp.ClientResponse) -> Iterable[tuple[str, str]]:
    """Yield the headers of a reply that are for the caller."""
    named = response.headers.get("Connection", "").lower().split(",")
    kept_back = _KEPT_BACK | {name.strip() for name in named}
    for name, value in response.headers.items():
        lower = name.lower()
        if lower == "x-request-id":
            yield "x-upstream-request-id", value
        elif lower not in kept_back and not lower.startswith(_KEPT_BACK_PREFIXES):
            yield name, value


async def plain(
    response: aiohttp.ClientResponse, pieces: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Yield a body without its compression: some servers compress what nobody asked them to.

    Raises:
        CliProtocolError: if it is compressed in a way that is not known, or not as it says.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding in {"", "identity"}:
        async for piece in pieces:
            yield piece
        return
    if coding not in _WINDOW_BITS:
        raise CliProtocolError(f"the upstream compressed its reply, unasked, by {coding[:20]!r}")
    unpacking = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        async for piece in pieces:
            packed = piece
            while packed:
                yield unpacking.decompress(packed, UNPACKED_BYTES)
                packed = unpacking.unconsumed_tail
        yield unpacking.flush()
    except zlib.error as exc:
        raise CliProtocolError(f"the upstream's reply is no {coding}: {exc}") from exc


def error_of(response: aiohttp.ClientResponse, body: bytes) -> ClinvkError:
    """Return the error that a reply with a status of failure amounts to."""
    return failure(response.status, body, response.headers)
