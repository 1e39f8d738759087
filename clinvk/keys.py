"""Keys for this server: where they are kept, and whose a given one is. Knows no HTTP.

Owns the file of keys. Of a key only its hash is kept, here and on disk: keys that clinvk makes
are 256 random bits, which no hash needs to be slow for.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinvk.config import (
    KEY_NAME,
    ConfigError,
    KeyConfig,
    ServerConfig,
    dump_keys,
    parse_keys,
    user_keys_file,
)
from clinvk.environment import REQUIRE_AUTH, TOKEN, needs_key, token

ENV_VAR = "CLINVK_API_KEYS"
TOKEN_NAME = "api-token"  # noqa: S105 - a name
PREFIX = "sk-clinvk-"  # clients and scanners for leaked secrets know keys by `sk-`
KEY_BYTES = 32
SHORT = 20  # characters; a shorter key may be guessed

_NAMED = re.compile(rf"({KEY_NAME})=(?!=*$)(.+)")
_Signature = tuple[int, int, int, int]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is valid: its name, its hash, and what it allows; None and () are no limit."""

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    max_turns: int | None = None
    models: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: KeyConfig) -> "Key":
        """Return the key of an entry in a file."""
        return cls(
            config.name,
            bytes.fromhex(config.sha256),
            config.requests_per_minute,
            config.max_turns,
            tuple(config.models),
        )


class Keyring:
    """The keys of a server, from backends.yaml, a file that may change, and the environment.

    Once keys are asked for they stay so until the server ends: whoever revokes the last one lets
    nobody in. A file that has become wrong is logged, and what it said before stays in force.
    """

    def __init__(
        self, server: ServerConfig, *, env: Mapping[str, str] | None = None, users: bool = False
    ) -> None:
        """Read all keys.

        Args:
            server: its `api_keys` and `keys_file`.
            env: where `$CLINVK_API_KEYS` and `$API_TOKEN` are looked up; nowhere by default.
            users: whether the user's own file counts if `keys_file` names no other.

        Raises:
            ConfigError: if a key or the file is wrong, or the file that is named does not exist.
        """
        self._configured = [Key.of(key) for key in server.api_keys]
        self._configured += from_environment({} if env is None else env)
        self.file = keys_file(server) if users or server.keys_file is not None else None
        self._signature: _Signature | None = None
        self._from_file: list[Key] = []
        if self.file is not None:
            self._signature = _signature(self.file)
            if self._signature is not None:
                self._from_file = [Key.of(key) for key in read(self.file)]
            elif server.keys_file is not None:
                raise ConfigError(
                    f"server.keys_file: {self.file} does not exist; "
                    f"'clinvk keys create NAME' makes it"
                )
        self._required = bool(self._configured) or self._signature is not None
        if not self._required and env is not None and needs_key(env):
            raise ConfigError(
                f"${REQUIRE_AUTH} asks for a key and there is none: set ${TOKEN}, "
                f"or 'clinvk keys create NAME' makes one"
            )

    @property
    def required(self) -> bool:
        """Whether a caller needs a key."""
        self._look()
        return self._required

    @property
    def names(self) -> list[str]:
        """The names of the keys that are valid now, sorted."""
        self._look()
        return sorted({key.name for key in self._all()})

    def find(self, presented: str) -> Key | None:
        """Return the key that `presented` is, or None; takes the same time whichever it is."""
        self._look()
        digest = _digest(presented)
        found = None
        for key in self._all():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def configure(self, server: ServerConfig, *, env: Mapping[str, str] | None = None) -> None:
        """Take `server.api_keys` and the environment anew; which file is read stays.

        Raises:
            ConfigError: if a key is wrong; then nothing has changed.
        """
        configured = [Key.of(key) for key in server.api_keys]
        self._configured = configured + from_environment({} if env is None else env)
        self._required = self._required or bool(self._configured)

    def _all(self) -> list[Key]:
        return [*self._configured, *self._from_file]

    def _look(self) -> None:
        if self.file is None or (signature := _signature(self.file)) == self._signature:
            return
        self._signature = signature
        if signature is None:
            _log.warning("%s is gone, and its keys are no longer valid", self.file)
            self._from_file = []
            return
        self._required = True
        try:
            self._from_file = [Key.of(key) for key in read(self.file)]
        except ConfigError as exc:
            _log.error("%s; the keys that it had before stay valid", exc)
            return
        _log.info("%s has changed; valid keys: %s", self.file, ", ".join(self.names) or "none")


def new_key() -> str:
    """Return a key that nobody has."""
    return PREFIX + secrets.token_hex(KEY_BYTES)


def hash_of(key: str) -> str:
    """Return what is kept of a key: its SHA-256, in hex."""
    return _digest(key).hex()


def keys_file(server: ServerConfig) -> Path:
    """Return the path of the file of keys, whether it exists or not."""
    if server.keys_file is None:
        return user_keys_file()
    return Path(server.keys_file).expanduser()


def from_environment(env: Mapping[str, str]) -> list[Key]:
    """Return the keys in `$CLINVK_API_KEYS`: `name=key` or `key`, between commas; and `$API_TOKEN`.

    A key without a name is named by a little of its hash: by its place it would inherit what
    belongs to another as soon as one before it goes.

    Raises:
        ConfigError: if one is wrong, by its place, never by what it is.
    """
    found: list[Key] = []
    for number, entry in enumerate(env.get(ENV_VAR, "").split(","), 1):
        text = entry.strip()
        if not text:
            continue
        named = _NAMED.fullmatch(text)
        key = named[2].strip() if named else text
        name = named[1] if named else f"env-{hash_of(key)[:6]}"
        _check(key, ENV_VAR, f"key {number}")
        if name in {other.name for other in found}:
            raise ConfigError(f"${ENV_VAR}: there are two keys named {name!r}")
        found.append(_key(name, key, ENV_VAR))
    if (shared := token(env)) is not None:
        _check(shared, TOKEN, "the key")
        found.append(_key(TOKEN_NAME, shared, TOKEN))
    return found


def _check(key: str, variable: str, what: str) -> None:
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"${variable}: {what} must be visible ASCII characters without spaces")


def _key(name: str, key: str, variable: str) -> Key:
    if len(key) < SHORT:
        _log.warning(
            "$%s: the key %r is so short that it may be guessed; "
            "'clinvk keys create NAME' makes good ones",
            variable,
            name,
        )
    return Key(name, _digest(key))


def read(path: Path) -> list[KeyConfig]:
    """Return what a file of keys says.

    Raises:
        ConfigError: if it cannot be read, is wrong, or could have been written by somebody else.
    """
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (0, os.geteuid()):
                raise ConfigError(f"{path}: belongs to another user, who could add keys")
            if stat.S_IMODE(status.st_mode) & 0o022:
                raise ConfigError(
                    f"{path}: may be written by others, who could add keys; chmod 600 {path}"
                )
            text = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    return parse_keys(text, name=str(path))


def add(path: Path, key: KeyConfig) -> None:
    """Add a key to a file, which is made if need be, for its user only.

    Raises:
        ConfigError: if the file is wrong, or has a key of this name.
        OSError: if it cannot be written.
    """

    def added(keys: Sequence[KeyConfig]) -> list[KeyConfig]:
        if key.name in {other.name for other in keys}:
            raise ConfigError(
                f"{path} has a key named {key.name!r}; "
                f"choose another name, or 'clinvk keys revoke {key.name}' first"
            )
        return [*keys, key]

    _change(path, added)


def remove(path: Path, name: str) -> bool:
    """Remove a key from a file by its name; return whether there was one.

    Raises:
        ConfigError: if the file is wrong.
        OSError: if it cannot be written.
    """
    found = False

    def removed(keys: Sequence[KeyConfig]) -> list[KeyConfig]:
        nonlocal found
        kept = [key for key in keys if key.name != name]
        found = len(kept) < len(keys)
        return kept

    if path.exists():
        _change(path, removed)
    return found


def today() -> str:
    """Return the date, as entries tell when they were made."""
    return time.strftime("%Y-%m-%d")


def _change(path: Path, change: Callable[[Sequence[KeyConfig]], list[KeyConfig]]) -> None:
    """Replace the file by a changed one at once: no reader ever sees a part of it."""
    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.parent):
        before = read(path) if path.exists() else []
        after = change(before)
        if after == before:
            return
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".keys-", delete=False
        ) as file:
            try:
                file.write(dump_keys(after))
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink()
                raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _signature(path: Path) -> _Signature | None:
    """What differs once a file was changed or replaced; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return (0, 0, 0, 0)  # there is one; reading it will tell what is wrong
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
