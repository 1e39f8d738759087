"""What a child may see of the environment: an allow-list, never the whole.

Owns the names common to every child; a backend adds those of its vendor.
"""

import os
from collections.abc import Iterable, Mapping

COMMON = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_*",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "DBUS_SESSION_BUS_ADDRESS",  # the keyring that holds a login on Linux
    "SECURITYSESSIONID",  # the same on macOS
    "__CF_USER_TEXT_ENCODING",
)
FIXED = {"NO_COLOR": "1"}


def child_environment(
    vendor: Iterable[str],
    extra: Mapping[str, str],
    *,
    source: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Build a child's environment.

    Args:
        vendor: further names that may pass; a trailing `*` is a prefix.
        extra: variables set whatever the source holds.
        source: where names are looked up; the server's own environment by default.
    """
    source = os.environ if source is None else source
    return {**select((*COMMON, *vendor), source), **FIXED, **extra}


def select(allowed: Iterable[str], source: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `source` that may pass; a trailing `*` is a prefix."""
    allowed = tuple(allowed)
    names = {name for name in allowed if not name.endswith("*")}
    prefixes = tuple(name.removesuffix("*") for name in allowed if name.endswith("*"))
    return {
        name: value
        for name, value in source.items()
        if (name in names or name.startswith(prefixes)) and not name.startswith("CLINVK_")
    }
