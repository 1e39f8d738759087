"""What a web page may do here: nothing, unless its origin is configured. Knows no keys.

A browser tells where a request comes from by `Host`, `Origin` and `Sec-Fetch-Site`, which no page
can forge. A page that rebinds its name to loopback still sends that name as `Host`.
"""

import ipaddress
import re
from fnmatch import fnmatchcase

from aiohttp import hdrs, web

from clinvk.config import ServerConfig
from clinvk.errors import HostRefusedError, MediaTypeError, OriginRefusedError

ALLOWED = web.RequestKey("clinvk.allowed_origin", str)

# Paths of routes that take forms.
FORMS = web.AppKey("clinvk.forms", set[str])

PREFLIGHT_MAX_AGE_S = 600
METHODS = "GET, POST, DELETE"
READABLE = frozenset({"/docs", "/openapi.json"})
EXPOSED = (
    "x-request-id, request-id, retry-after, x-should-retry, x-clinvk-backend, x-clinvk-turn, "
    "x-clinvk-tried, x-clinvk-ignored, x-clinvk-usage, www-authenticate"
)
_SHOWN = 100  # characters of a client's header in an error
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{0,5})?")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4000}")


class Pages:
    """Tells which hosts and origins may ask."""

    def __init__(self, server: ServerConfig) -> None:
        self._hosts = tuple(server.allowed_hosts)
        self._origins = frozenset(server.cors_origins)
        # Its IP addresses are the machine's own; only a name can be rebound to them.
        self._any_address = server.insecure_no_auth

    def admit(self, request: web.Request, *, keyed: bool) -> None:
        """Note whether the request's origin may read the reply; with keys that is all.

        Raises:
            HostRefusedError: without keys, if the host is neither loopback nor configured.
            OriginRefusedError: without keys, if a page sends it that is neither clinvk's own nor
                configured; always, if its browser asks first.
        """
        if not keyed:
            self._check_host(request)
        origins = [origin.lower() for origin in request.headers.getall(hdrs.ORIGIN, [])]
        # With keys a page cannot ask without one; without them any page could.
        if len(origins) == 1 and (origins[0] in self._origins or (keyed and "*" in self._origins)):
            request[ALLOWED] = request.headers[hdrs.ORIGIN]
        elif is_preflight(request) or (not keyed and not _is_own(request, origins)):
            raise OriginRefusedError(_refusal(origins))

    def _check_host(self, request: web.Request) -> None:
        if _over_unix(request):
            return
        hosts = request.headers.getall(hdrs.HOST, [])
        # The target of a request may name a host too, which then counts.
        names = [_name_of(host.lower()) for host in (*hosts, request.host)]
        if len(hosts) != 1 or not all(name and self._is_allowed(name) for name in names):
            shown = ", ".join(hosts)[:_SHOWN]
            raise HostRefusedError(
                f"the host {shown!r} is not served: without keys only localhost and loopback "
                f"addresses are; add the name to server.allowed_hosts in backends.yaml, or make "
                f"a key with 'clinvk keys create NAME'"
            )

    def _is_allowed(self, name: str) -> bool:
        if name == "localhost" or any(fnmatchcase(name, host) for host in self._hosts):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or is_loopback(address)

    @property
    def answer_pages(self) -> bool:
        """Whether replies differ by origin."""
        return bool(self._origins)


PAGES = web.AppKey("clinvk.pages", Pages)


def is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether only this machine can reach the address."""
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if a page may ask."""
    return request.method == hdrs.METH_OPTIONS and (
        hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def preflight(request: web.Request) -> web.Response:
    """Return the answer for a page whose origin may ask; it may send any header it names."""
    headers: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_MAX_AGE_S),
        hdrs.VARY: "Access-Control-Request-Headers, Access-Control-Request-Private-Network",
    }
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    if _HEADER_NAMES.fullmatch(asked):
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=204, headers=headers)


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let a page read the reply if its origin may; an `on_response_prepare` hook."""
    if request.app[PAGES].answer_pages:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if (origin := request.get(ALLOWED)) is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


def require_json(request: web.Request) -> None:
    """Refuse a body that a page could send without being asked about it.

    Where a form is wanted it could; then it is its `Origin` alone that keeps it out.

    Raises:
        MediaTypeError: if there is a body that does not call itself JSON, or a form.
    """
    if not request.body_exists or request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return
    types = request.headers.getall(hdrs.CONTENT_TYPE, [])
    resource = request.match_info.route.resource
    takes_form = resource is not None and resource.canonical in request.app[FORMS]
    wanted = "multipart/form-data" if takes_form else "application/json"
    if len(types) != 1 or types[0].partition(";")[0].strip().lower() != wanted:
        shown = repr(", ".join(types)[:_SHOWN]) if types else "no type at all"
        raise MediaTypeError(
            f"the body is sent as {shown}; send it with the header 'Content-Type: {wanted}'"
        )


def _is_own(request: web.Request, origins: list[str]) -> bool:
    """Whether no page sends the request, or one of this server's own.

    Browsers tell no origin with a plain GET, such as an image's, but they do tell the site. A
    link may be followed to what is to be read: its page learns nothing of the reply.
    """
    if not origins:
        site = request.headers.get("Sec-Fetch-Site", "none").lower()
        followed = (
            request.method == hdrs.METH_GET
            and request.path in READABLE
            and request.headers.get("Sec-Fetch-Mode") == "navigate"
            and request.headers.get("Sec-Fetch-Dest") == "document"
        )
        return site in ("none", "same-origin") or followed
    scheme, _, host = origins[0].partition("://")
    return (
        len(origins) == 1
        # What stands before this server may speak TLS for it.
        and scheme in (("https",) if request.secure else ("http", "https"))
        and host == request.headers.get(hdrs.HOST, "").lower()
    )


def _refusal(origins: list[str]) -> str:
    if not origins:
        return "a page of another site sends this, and its browser does not say which"
    shown = ", ".join(origins)[:_SHOWN]
    return (
        f"pages of {shown!r} may not ask here; add the origin to server.cors_origins in "
        f"backends.yaml if you trust them"
    )


def _name_of(host: str) -> str:
    """The name or address in a `Host` header without its port; empty if it is none."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found[1].strip("[]").removesuffix(".")


def _over_unix(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str)
