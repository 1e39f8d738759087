"""Where `clinvk serve` listens: never open to others by mistake, on Unix sockets, over TLS."""

import contextlib
import errno
import fcntl
import http.client
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
import yaml

from clinvk.config import ServerConfig
from clinvk.server.listening import listening
from tests.cli.conftest import Clinvk, interrupted, read_until

CURL = shutil.which("curl") or "curl"
KEY = "k" * 30
WITH_KEY = {"CLINVK_API_KEYS": f"me={KEY}"}


def start(
    clinvk: Clinvk, *args: str, env: dict[str, str] | None = None
) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server and give what it says that it listens on."""
    process = clinvk.start("serve", *args, env=env, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert line.startswith("clinvk is listening on "), process.stderr and process.stderr.read()
    return process, line.split()[-1]


def curl(*args: str) -> str:
    done = subprocess.run(
        [CURL, "-sS", "--noproxy", "*", "-m", "30", *args], capture_output=True, check=True
    )
    return done.stdout.decode()


def lan_address() -> str | None:
    """An address of this machine that is not loopback, without a packet sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


OTHERS = ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "::ffff:0.0.0.0", "0"]


@pytest.mark.parametrize("host", [*OTHERS, lan_address() or "10.0.0.1"])
def test_no_address_that_others_reach_is_served_without_keys(clinvk: Clinvk, host: str) -> None:
    ended = clinvk("serve", "--host", host, "--port", "0")
    assert (ended.code, ended.out) == (2, "")
    message = ended.err.splitlines()[-1]
    assert message.startswith(f"clinvk: others can reach {host or 'every address'}, and")
    assert "'clinvk keys create NAME'" in message
    assert "--insecure-no-auth" in message


def test_a_configured_host_is_looked_at_as_well(clinvk: Clinvk) -> None:
    clinvk.config({"host": "0.0.0.0", "port": 0}, echo={"kind": "echo"})
    assert clinvk("serve").code == 2
    clinvk.config({"host": "0.0.0.0", "port": 0, "insecure_no_auth": True}, echo={"kind": "echo"})
    process, address = start(clinvk)
    assert address.startswith("http://0.0.0.0:")
    assert "it needs no key" in read_until(process.stderr, "needs no key")


def test_a_name_is_looked_up_before_it_is_served(clinvk: Clinvk) -> None:
    process, address = start(clinvk, "--host", "localhost", "--port", "0")
    port = urlsplit(address).port
    for host in {each[4][0] for each in socket.getaddrinfo("localhost", None)}:
        with socket.socket(socket.AF_INET6 if ":" in str(host) else socket.AF_INET) as probe:
            failed = probe.connect_ex((str(host), port or 0))  # every address has one port
        assert not failed or failed == errno.EADDRNOTAVAIL  # a machine without IPv6
    assert interrupted(process, signal.SIGTERM).code == 0
    ended = clinvk("serve", "--host", "no.such.name.invalid")
    assert (ended.code, ended.out) == (1, "")
    assert "cannot listen on no.such.name.invalid:8080" in ended.err


def test_with_keys_others_may_reach_it(clinvk: Clinvk) -> None:
    process, address = start(clinvk, "--host", "0.0.0.0", "--port", "0", env=WITH_KEY)
    port = urlsplit(address).port
    url = f"http://127.0.0.1:{port}/v1/models"
    assert "invalid_api_key" in curl(url, "-H", "Host: box.lan")
    assert '"echo"' in curl(url, "-H", "Host: box.lan", "-H", f"X-Api-Key: {KEY}")
    assert "go to 0.0.0.0 unencrypted; give --tls-cert" in read_until(process.stderr, "unencrypted")


def test_a_deliberate_word_lets_everybody_in_but_no_page(clinvk: Clinvk) -> None:
    process, address = start(clinvk, "--host", "0.0.0.0", "--port", "0", "--insecure-no-auth")
    url = f"http://127.0.0.1:{urlsplit(address).port}/v1/models"
    assert "everybody who can reach 0.0.0.0" in read_until(process.stderr, "everybody")
    assert '"echo"' in curl(url, "-H", "Host: 192.168.1.5")
    assert "host_not_allowed" in curl(url, "-H", "Host: evil.example")
    assert "origin_not_allowed" in curl(url, "-H", "Origin: https://evil.example")


def test_any_origin_needs_keys(clinvk: Clinvk) -> None:
    clinvk.config({"cors_origins": ["*"], "port": 0}, echo={"kind": "echo"})
    ended = clinvk("serve")
    assert (ended.code, ended.out) == (2, "")
    assert "server.cors_origins: '*' needs keys" in ended.err
    start(clinvk, env=WITH_KEY)


def test_a_unix_socket_is_its_users_alone_and_goes_with_the_server(clinvk: Clinvk) -> None:
    path = clinvk.folder / "clinvk.sock"
    process, address = start(clinvk, "--uds", str(path))
    assert address == f"unix:{path}"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    asked = ("--unix-socket", str(path), "http://anything.example/v1/chat/completions")
    body = '{"model": "echo", "messages": [{"role": "user", "content": "over a socket"}]}'
    answer = curl(*asked, "-H", "Content-Type: application/json", "-d", body)
    assert '"content": "over a socket"' in answer
    assert "unsupported_media_type" in curl(*asked, "-d", body)
    assert "origin_not_allowed" in curl(*asked, "-d", body, "-H", "Origin: https://evil.example")
    assert interrupted(process, signal.SIGTERM).code == 0
    assert not path.exists()


def test_keys_count_on_a_unix_socket(clinvk: Clinvk) -> None:
    path = clinvk.folder / "clinvk.sock"
    start(clinvk, "--uds", str(path), env=WITH_KEY)
    asked = ("--unix-socket", str(path), "http://localhost/v1/models")
    assert "invalid_api_key" in curl(*asked)
    assert '"echo"' in curl(*asked, "-H", f"Authorization: Bearer {KEY}")


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(clinvk: Clinvk) -> None:
    path = clinvk.folder / "clinvk.sock"
    killed, _ = start(clinvk, "--uds", str(path))
    killed.kill()
    killed.wait()
    assert path.exists()
    process, _ = start(clinvk, "--uds", str(path))
    second = clinvk("serve", "--uds", str(path))
    assert (second.code, second.out) == (1, "")
    assert f"another server listens on {path}; stop it" in second.err
    assert '"echo"' in curl("--unix-socket", str(path), "http://localhost/v1/models")
    assert interrupted(process, signal.SIGTERM).code == 0


def test_a_server_takes_no_other_servers_socket_away(clinvk: Clinvk) -> None:
    path = clinvk.folder / "clinvk.sock"
    first, _ = start(clinvk, "--uds", str(path))
    path.unlink()
    second, _ = start(clinvk, "--uds", str(path))
    assert interrupted(first, signal.SIGTERM).code == 0
    assert '"echo"' in curl("--unix-socket", str(path), "http://localhost/v1/models")
    assert interrupted(second, signal.SIGTERM).code == 0


def test_what_is_no_socket_is_left_alone(clinvk: Clinvk) -> None:
    path = clinvk.folder / "notes.txt"
    path.write_text("mine")
    ended = clinvk("serve", "--uds", str(path))
    assert (ended.code, ended.out) == (1, "")
    assert f"{path} exists and is no socket; choose another path" in ended.err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("path", ["none/clinvk.sock", "x" * 200])
def test_a_path_that_cannot_be_is_named(clinvk: Clinvk, path: str) -> None:
    ended = clinvk("serve", "--uds", path)
    assert (ended.code, ended.out) == (1, "")
    assert f"cannot listen on {path}: " in ended.err
    assert "choose another path" in ended.err


def test_a_socket_takes_the_place_of_an_address(clinvk: Clinvk) -> None:
    ended = clinvk("serve", "--uds", "clinvk.sock", "--port", "0")
    assert (ended.code, ended.out) == (2, "")
    assert "--uds takes the place of --host and --port; leave them out" in ended.err
    clinvk.config({"uds": str(clinvk.folder / "c.sock")}, echo={"kind": "echo"})
    _, address = start(clinvk, "--port", "0")  # the command line wins
    assert address.startswith("http://127.0.0.1:")
    _, address = start(clinvk)
    assert address == f"unix:{clinvk.folder}/c.sock"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pair(authority: trustme.CA, tmp_path: Path) -> tuple[str, str]:
    made = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return str(cert), str(key)


def test_tls_is_spoken_where_there_is_a_certificate(
    clinvk: Clinvk, authority: trustme.CA, pair: tuple[str, str], tmp_path: Path
) -> None:
    cert, key = pair
    _, address = start(clinvk, "--port", "0", "--tls-cert", cert, "--tls-key", key)
    assert address.startswith("https://127.0.0.1:")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    models = f"{address}/models"
    assert '"echo"' in curl("--cacert", str(ca), models)
    here = f"https://{urlsplit(address).netloc}"
    assert '"echo"' in curl("--cacert", str(ca), models, "-H", f"Origin: {here}")
    plain = here.replace("https:", "http:")  # a page that was not sent by this server
    refused = curl("--cacert", str(ca), models, "-H", f"Origin: {plain}")
    assert "origin_not_allowed" in refused
    port = urlsplit(address).port or 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as unencrypted:
        unencrypted.request("GET", "/v1/models")
        with pytest.raises((http.client.HTTPException, OSError)):
            unencrypted.getresponse()


@pytest.mark.parametrize("given", ["--tls-cert", "--tls-key"])
def test_a_certificate_and_its_key_go_together(clinvk: Clinvk, given: str) -> None:
    ended = clinvk("serve", given, "x.pem")
    missing = {"--tls-cert": "--tls-key", "--tls-key": "--tls-cert"}[given]
    assert (ended.code, ended.out) == (1, "")
    assert f"TLS needs a certificate and its key: {missing} is missing" in ended.err


def test_what_is_wrong_with_tls_is_named_by_its_file(
    clinvk: Clinvk, pair: tuple[str, str], tmp_path: Path
) -> None:
    cert, key = pair
    bad = tmp_path / "bad.pem"
    bad.write_text("not PEM")
    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    for given, message in (
        (("none.pem", key), "cannot read none.pem: No such file"),
        ((cert, "none.pem"), "cannot read none.pem: No such file"),
        ((str(tmp_path), key), f"cannot read {tmp_path}: Is a directory"),
        ((str(bad), key), f"{bad} is no certificate in PEM form"),
        ((key, key), f"{key} is no certificate in PEM form"),
        ((cert, str(bad)), f"{bad} is no private key in PEM form"),
        ((cert, str(other)), f"{other} is not the key of the certificate {cert}"),
        ((cert, str(locked)), f"{locked} has a passphrase; give a key without one"),
    ):
        ended = clinvk("serve", "--port", "0", "--tls-cert", given[0], "--tls-key", given[1])
        assert (ended.code, ended.out) == (1, "")
        assert message in ended.err.splitlines()[-1]


def test_tls_can_be_configured(clinvk: Clinvk, pair: tuple[str, str]) -> None:
    settings = {"port": 0, "tls_cert": pair[0], "tls_key": pair[1]}
    (clinvk.folder / "backends.yaml").write_text(yaml.safe_dump({"server": settings}))
    _, address = start(clinvk)
    assert '"echo"' in curl("-k", f"{address}/models")


def test_no_older_tls_is_spoken(pair: tuple[str, str]) -> None:
    server = ServerConfig(port=0, tls_cert=pair[0], tls_key=pair[1])
    with listening(server, keyed=False) as listener:
        assert listener.tls is not None
        assert listener.tls.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_was_bound_is_given_back_if_the_rest_fails(clinvk: Clinvk) -> None:
    path = clinvk.folder / "c.sock"
    before = os.umask(0o027)
    try:
        server = ServerConfig(uds=str(path))
        with contextlib.suppress(ZeroDivisionError), listening(server, keyed=False):
            assert path.exists()
            raise ZeroDivisionError
        assert not path.exists()
    finally:
        assert os.umask(before) == 0o027


def test_two_servers_that_start_at_once_do_not_take_each_others_socket(clinvk: Clinvk) -> None:
    path = clinvk.folder / "c.sock"
    folder = os.open(clinvk.folder, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    ended = clinvk("serve", "--uds", str(path))
    os.close(folder)
    assert (ended.code, ended.out) == (1, "")
    assert "another server is just starting" in ended.err
