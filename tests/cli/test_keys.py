"""`clinvk keys`, and a server that runs meanwhile."""

import http.client
import json
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from clinvk.keys import hash_of
from tests.cli.conftest import Clinvk, read_until
from tests.cli.test_serve import served

ECHO = {"kind": "echo"}


def get(
    address: str, headers: dict[str, str] | None = None, path: str = "/models"
) -> tuple[int, Any]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
        connection.request("GET", parts.path + path, headers=headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def keys_file(clinvk: Clinvk) -> Path:
    return clinvk.user_file.with_name("keys.yaml")


def test_a_key_is_printed_once_and_only_its_hash_is_kept(clinvk: Clinvk) -> None:
    made = clinvk("keys", "create", "ci", "--max-turns", "2", "--model", "echo", "--model", "c/*")
    key = made.out.strip()
    assert (made.code, made.out) == (0, f"{key}\n")
    assert key.startswith("sk-clinvk-")
    file = keys_file(clinvk)
    assert str(file) in made.err
    assert key not in made.err
    (kept,) = yaml.safe_load(file.read_text())["keys"]
    assert (kept["name"], kept["sha256"], kept["max_turns"]) == ("ci", hash_of(key), 2)
    assert kept["models"] == ["echo", "c/*"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = clinvk("keys", "list")
    assert listed.out.splitlines()[-1].split()[:4] == ["ci", kept["created"], "2", "echo,"]
    assert key not in listed.out + listed.err


def test_a_running_server_takes_new_keys_and_drops_revoked_ones_at_once(clinvk: Clinvk) -> None:
    first = clinvk("keys", "create", "first").out.strip()
    process, address = served(clinvk)
    assert "callers need a key: first\n" in read_until(process.stderr, "echo")
    assert get(address)[0] == 401
    assert get(address, {"Authorization": f"Bearer {first}"})[0] == 200
    second = clinvk("keys", "create", "second").out.strip()
    assert get(address, {"X-Api-Key": second})[0] == 200
    assert clinvk("keys", "revoke", "first").err == "first is revoked\n"
    assert get(address, {"Authorization": f"Bearer {first}"})[0] == 401
    last = clinvk("keys", "revoke", "second")
    assert (last.code, "lets nobody in" in last.err) == (0, True)
    assert get(address, {"X-Api-Key": second})[0] == 401
    assert get(address)[0] == 401


def test_the_first_key_closes_a_server_that_was_open(clinvk: Clinvk) -> None:
    _, address = served(clinvk)
    assert get(address)[0] == 200
    key = clinvk("keys", "create", "first").out.strip()
    assert get(address)[0] == 401
    assert get(address, {"X-Api-Key": key})[0] == 200


def test_keys_of_the_environment_and_of_the_configuration_count(clinvk: Clinvk) -> None:
    hashed = {"name": "hashed", "sha256": hash_of("k" * 30)}
    clinvk.config({"api_keys": [hashed]}, echo=ECHO)
    env = {"CLINVK_API_KEYS": f"env={'e' * 30}"}
    process, address = served(clinvk, env=env)
    assert "callers need a key: env, hashed" in read_until(process.stderr, "need a key")
    for key, status in (("k" * 30, 200), ("e" * 30, 200), (hash_of("k" * 30), 401)):
        assert get(address, {"Authorization": f"Bearer {key}"})[0] == status
    listed = json.loads(clinvk("keys", "list", "--json", env=env).out)
    assert [(row["name"], row["where"]) for row in listed] == [
        ("hashed", "backends.yaml"),
        ("env", "$CLINVK_API_KEYS"),
    ]
    assert "sha256" not in listed[0]
    refused = clinvk("keys", "revoke", "env", env=env)
    assert (refused.code, refused.out) == (2, "")
    assert "the key 'env' is in $CLINVK_API_KEYS; remove it there" in refused.err


def test_keys_of_the_configuration_are_read_again_by_a_reload(clinvk: Clinvk) -> None:
    one, two = ({"name": name, "sha256": hash_of(name * 30)} for name in "ab")
    clinvk.config({"api_keys": [one]}, echo=ECHO)
    process, address = served(clinvk)
    assert get(address, {"X-Api-Key": "a" * 30})[0] == 200
    for keys, expected in (([two], (401, 200)), ([], (401, 401))):
        clinvk.config({"api_keys": keys}, echo=ECHO)
        assert clinvk("reload").code == 0
        read_until(process.stderr, "new settings are used")
        assert get(address, {"X-Api-Key": "a" * 30})[0] == expected[0]
        assert get(address, {"X-Api-Key": "b" * 30})[0] == expected[1]


def test_the_server_and_the_command_agree_on_the_file(clinvk: Clinvk) -> None:
    file = clinvk.folder / "ours.yaml"
    settings = {"server": {"keys_file": str(file)}, "backends": {"echo": ECHO}}
    (clinvk.folder / "backends.yaml").write_text(yaml.safe_dump(settings))
    missing = clinvk("serve", "--port", "0")
    assert missing.code == 2
    assert f"{file} does not exist; 'clinvk keys create NAME' makes it" in missing.err
    key = clinvk("keys", "create", "a").out.strip()
    assert file.exists()
    _, address = served(clinvk)
    assert get(address, {"X-Api-Key": key})[0] == 200
    assert get(address)[0] == 401


def test_no_key_is_told_by_name_alone(clinvk: Clinvk) -> None:
    assert "there are no keys; 'clinvk keys create NAME'" in clinvk("keys", "list").err
    clinvk("keys", "create", "a")
    again = clinvk("keys", "create", "a")
    assert (again.code, again.out) == (2, "")
    assert "has a key named 'a'; choose another name" in again.err
    nobody = clinvk("keys", "revoke", "b")
    assert (nobody.code, nobody.err) == (2, "clinvk: there is no key 'b'; there are: a\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["create", "a b"], "'a b' must be letters"),
        (["create", "-x"], "no such option"),
        (["create", "a", "--max-turns", "0"], "0 is not in the range"),
        (["create"], "missing argument"),
        (["revoke"], "missing argument"),
    ],
)
def test_what_is_wrong_is_said(clinvk: Clinvk, args: list[str], message: str) -> None:
    ended = clinvk("keys", *args)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert not keys_file(clinvk).exists()


@pytest.mark.parametrize("command", [["create", "x"], ["revoke", "x"], ["list"]])
def test_a_file_that_is_wrong_is_named_and_left_alone(clinvk: Clinvk, command: list[str]) -> None:
    file = keys_file(clinvk)
    file.parent.mkdir(parents=True)
    file.write_text("keys:\n- {name: a}\n")
    file.chmod(0o600)
    ended = clinvk("keys", *command)
    assert (ended.code, ended.out) == (2, "")
    assert f"{file}:2: keys.0.sha256: is missing" in ended.err
    assert file.read_text() == "keys:\n- {name: a}\n"
    assert clinvk("serve", "--port", "0").code == 2


def test_a_folder_that_cannot_be_written_is_named(clinvk: Clinvk) -> None:
    (clinvk.folder / "taken").write_text("")
    settings = {"server": {"keys_file": str(clinvk.folder / "taken/keys.yaml")}}
    (clinvk.folder / "backends.yaml").write_text(yaml.safe_dump(settings))
    ended = clinvk("keys", "create", "a")
    assert (ended.code, ended.out) == (1, "")
    assert "taken/keys.yaml cannot be written" in ended.err


def test_keys_stay_out_of_every_log(clinvk: Clinvk) -> None:
    key = clinvk("keys", "create", "alice").out.strip()
    process, address = served(clinvk, "--log-level", "debug", stderr=subprocess.PIPE)
    get(address, {"Authorization": f"Bearer {key}"})
    get(address, {"Authorization": f"Bearer {key}x"})
    get(address, {"X-Api-Key": key}, f"/models?api_key={key}")
    parts = urlsplit(address)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as raw:
        raw.putrequest("GET", "/v1/models")
        raw.putheader("X-Api-Key", key)
        raw.putheader("X-Bad", b"\x01\x7f" + key.encode())  # no header can be so
        raw.endheaders()
        assert raw.getresponse().status == 400
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert b"key=alice" in err
    assert b"a request is no HTTP: " in err
    assert key.encode() not in err
