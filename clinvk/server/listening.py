"""Where the server listens: sockets that are bound before anything else starts, and their TLS.

Owns what may be bound: an address that others can reach needs keys, or a deliberate word.
"""

import contextlib
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinvk.config import ServerConfig
from clinvk.server.pages import is_loopback

BACKLOG = 128
PRIVATE = 0o177  # the umask of a socket that only its user may connect to
CONNECT_TIMEOUT_S = 2.0  # for a server that may listen at the same path

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # a family that this machine does not have

_log = logging.getLogger(__name__)


class ListenError(Exception):
    """The server cannot listen as it should; the text says what to do."""


class ExposedError(ListenError):
    """Others could reach the server, and nothing would keep them out."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Bound sockets, the TLS that is spoken there, and the file of a Unix socket."""

    sockets: list[socket.socket]
    tls: ssl.SSLContext | None
    path: Path | None = None
    inode: int | None = None

    @property
    def address(self) -> str:
        """What a client is told: `http://host:port`, or `unix:path`."""
        if self.path is not None:
            return f"unix:{self.path}"
        host, port = self.sockets[0].getsockname()[:2]
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def withdraw(self) -> None:
        """Take the file of a Unix socket away, unless it is another server's by now.

        While the socket is open no other file can get its number.
        """
        with contextlib.suppress(OSError):
            if self.path is not None and self.path.lstat().st_ino == self.inode:
                self.path.unlink()

    def close(self) -> None:
        """Take everything back; a second call does nothing."""
        self.withdraw()
        for each in self.sockets:
            each.close()


@contextlib.contextmanager
def listening(server: ServerConfig, *, keyed: bool) -> Iterator[Listener]:
    """Bind what the configuration says, and take it back at the end.

    It works on the process's umask for a moment, so it belongs before any thread.

    Raises:
        ListenError: if that cannot be, or must not: `keyed` tells whether callers need a key.
    """
    if "*" in server.cors_origins and not keyed:
        raise ExposedError(
            "server.cors_origins: '*' needs keys, or any web page could use your logins; name "
            "the origins, or make a key with 'clinvk keys create NAME'"
        )
    tls = _tls(server)
    listener = _unix(server.uds, tls) if server.uds is not None else _tcp(server, tls, keyed)
    try:
        yield listener
    finally:
        listener.close()


def _tcp(server: ServerConfig, tls: ssl.SSLContext | None, keyed: bool) -> Listener:
    where = f"{server.host}:{server.port}"
    advice = "choose another with --host and --port (0 picks a free port)"
    try:
        found = socket.getaddrinfo(
            server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ListenError(f"cannot listen on {where}: {reason}; {advice}") from exc
    # What was looked up is what is bound: a name cannot turn into another address meanwhile.
    addresses = list(dict.fromkeys((family, address) for family, *_, address in found))
    if not all(is_loopback(ipaddress.ip_address(str(a[0]).split("%")[0])) for _, a in addresses):
        _require_protection(server, tls, keyed)
    sockets: list[socket.socket] = []
    try:
        for at, (family, address) in enumerate(addresses, 1):
            port = sockets[0].getsockname()[1] if sockets else server.port
            try:
                sockets.append(_bound(family, (address[0], port, *address[2:])))
            except OSError as exc:
                if exc.errno not in _ABSENT or (at == len(addresses) and not sockets):
                    raise
    except OSError as exc:
        for each in sockets:
            each.close()
        raise ListenError(f"cannot listen on {where}: {exc.strerror or exc}; {advice}") from exc
    return Listener(sockets, tls)


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _require_protection(server: ServerConfig, tls: ssl.SSLContext | None, keyed: bool) -> None:
    host = server.host or "every address"
    if not keyed and not server.insecure_no_auth:
        raise ExposedError(
            f"others can reach {host}, and would use your logins: make a key with "
            f"'clinvk keys create NAME' or set $CLINVK_API_KEYS; "
            f"--insecure-no-auth lets everybody in"
        )
    if not keyed:
        _log.warning("everybody who can reach %s can use your logins: it needs no key", host)
    elif tls is None:
        _log.warning(
            "keys, prompts and answers go to %s unencrypted; give --tls-cert and --tls-key, "
            "or let something in front speak TLS",
            host,
        )


def _unix(path: str, tls: ssl.SSLContext | None) -> Listener:
    file = Path(path).expanduser()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(file.parent):
            _clear(file)
            before = os.umask(PRIVATE)
            try:
                made.bind(str(file))
            finally:
                os.umask(before)
            made.listen(BACKLOG)  # or another server would take it for a stale one
            return Listener([made], tls, file, file.lstat().st_ino)
    except (OSError, ValueError) as exc:
        made.close()
        reason = getattr(exc, "strerror", None) or exc
        raise ListenError(f"cannot listen on {file}: {reason}; choose another path") from exc
    except ListenError:
        made.close()
        raise


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a second server that starts at once from taking this one's socket for a stale one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ListenError(f"another server is just starting in {folder}; try again") from None
        yield
    finally:
        os.close(descriptor)


def _clear(file: Path) -> None:
    """Remove the socket of a server that is gone; leave anything else."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{file} exists and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(file))
        except ConnectionRefusedError:
            file.unlink()
            return
        except TimeoutError:  # it listens, if slowly
            pass
    raise ListenError(f"another server listens on {file}; stop it, or choose another path")


def _tls(server: ServerConfig) -> ssl.SSLContext | None:
    if server.tls_cert is None and server.tls_key is None:
        return None
    if server.tls_cert is None or server.tls_key is None:
        missing = "--tls-cert" if server.tls_cert is None else "--tls-key"
        raise ListenError(f"TLS needs a certificate and its key: {missing} is missing")
    cert, key = (Path(name).expanduser() for name in (server.tls_cert, server.tls_key))
    for file in (cert, key):
        try:
            file.read_bytes()
        except OSError as exc:
            raise ListenError(f"cannot read {file}: {exc.strerror or exc}") from exc

    def passphrase() -> str:
        raise ListenError(f"{key} has a passphrase; give a key without one")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ListenError(f"{key} is not the key of the certificate {cert}") from exc
        if _is_certificate(cert):
            raise ListenError(f"{key} is no private key in PEM form") from exc
        raise ListenError(f"{cert} is no certificate in PEM form") from exc
    return context


def _is_certificate(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return False
    return True
