"""Which keys are valid, where they come from, and who else could have written them."""

import hmac
import os
import stat
import threading
from pathlib import Path

import pytest

from clinvk import keys
from clinvk.config import ConfigError, KeyConfig, ServerConfig
from clinvk.keys import PREFIX, Key, Keyring, add, hash_of, new_key, read, remove


def entry(name: str, key: str, **limits: object) -> KeyConfig:
    return KeyConfig.model_validate({"name": name, "sha256": hash_of(key), **limits})


def nameless(key: str) -> str:
    return f"env-{hash_of(key)[:6]}"


def over(path: Path) -> Keyring:
    return Keyring(ServerConfig(keys_file=str(path)))


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "clinvk")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "keys.yaml"


def test_a_new_key_is_recognisable_and_nobody_elses() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 64 for key in made)
    assert len({character for key in made for character in key.removeprefix(PREFIX)}) == 16


def test_what_is_kept_does_not_hold_the_key(file: Path) -> None:
    key = new_key()
    add(file, entry("a", key, models=["claude"], max_turns=2))
    assert key not in file.read_text()
    assert read(file) == [entry("a", key, models=["claude"], max_turns=2)]


def test_only_the_user_may_read_the_file(file: Path) -> None:
    for name in ("a", "b"):  # made, and replaced
        add(file, entry(name, name))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


def test_keys_of_every_source_are_found_by_what_they_are(file: Path) -> None:
    add(file, entry("file", "k1", requests_per_minute=3))
    server = ServerConfig(keys_file=str(file), api_keys=[entry("yaml", "k2", models=["echo"])])
    ring = Keyring(server, env={keys.ENV_VAR: " k3, env= k4 ,, b64==,env2=k5="})
    assert ring.required
    assert ring.names == sorted(["env", nameless("k3"), nameless("b64=="), "env2", "file", "yaml"])
    assert ring.find("k1") == Key("file", bytes.fromhex(hash_of("k1")), requests_per_minute=3)
    found = {key: ring.find(key) for key in ("k2", "k3", "k4", "b64==", "k5=", "env= k4")}
    assert {key: each and each.name for key, each in found.items()} == {
        "k2": "yaml",
        "k3": nameless("k3"),
        "k4": "env",
        "b64==": nameless("b64=="),
        "k5=": "env2",
        "env= k4": None,
    }


@pytest.mark.parametrize("wrong", ["", "K", "k ", "k1", hash_of("k"), "ké", "\udcff", "k" * 5000])
def test_what_is_no_key_is_nobodys(wrong: str) -> None:
    assert Keyring(ServerConfig(api_keys=[entry("a", "k")])).find(wrong) is None


def test_every_key_is_compared_in_constant_time_whichever_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(kept: bytes, shown: bytes) -> bool:
        compared.append((kept, shown))
        return real(kept, shown)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ring = Keyring(ServerConfig(api_keys=[entry(name, name) for name in "abc"]))
    for shown in ("a", "c", "nobody"):
        compared.clear()
        ring.find(shown)
        digest = bytes.fromhex(hash_of(shown))
        assert compared == [(bytes.fromhex(hash_of(name)), digest) for name in "abc"]


def test_a_key_that_is_revoked_is_not_valid_from_then_on(file: Path) -> None:
    add(file, entry("a", "k1"))
    add(file, entry("b", "k2"))
    ring = over(file)
    assert ring.find("k1")
    assert remove(file, "a")
    assert ring.find("k1") is None
    assert ring.find("k2")
    add(file, entry("c", "k3"))
    assert ring.find("k3")


def test_revoking_the_last_key_lets_nobody_in(file: Path) -> None:
    add(file, entry("a", "k1"))
    ring = over(file)
    remove(file, "a")
    assert (ring.required, ring.names) == (True, [])
    assert over(file).required  # after a restart, too
    file.unlink()
    assert ring.required


def test_a_file_that_goes_takes_its_keys_along(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(file, entry("a", "k1"))
    ring = over(file)
    file.unlink()
    assert ring.find("k1") is None
    assert ring.required
    assert "is gone" in caplog.text


def test_the_first_key_counts_at_once(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(keys, "user_keys_file", lambda: file)
    ring = Keyring(ServerConfig(), users=True)
    before = ring.required
    add(file, entry("a", "k1"))
    assert (before, ring.required) == (False, True)
    assert ring.find("k1")
    assert not Keyring(ServerConfig()).required  # the user's own file only if it is asked for


def test_a_file_that_becomes_wrong_changes_nothing_and_is_logged(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(file, entry("a", "k1"))
    ring = over(file)
    file.write_text("keys: [{name: a}]")
    assert ring.find("k1")
    assert "keys.yaml:1: keys.0.sha256: is missing; the keys that it had before" in caplog.text
    caplog.clear()
    assert ring.find("k1")
    assert caplog.text == ""  # once a change


def test_a_folder_that_cannot_be_looked_into_changes_nothing(file: Path) -> None:
    add(file, entry("a", "k1"))
    ring = over(file)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file where a folder was")
    assert ring.find("k1")
    assert ring.required


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: 1", ":1: keys: input should be a valid list"),
        ("[]", ":1: must be a mapping with keys"),
        ("keys: [\n", "not YAML"),
        ("kays: []", ":1: kays: is not a known key"),
        ("keys:\n- {name: a, sha256: abc}", ":2: keys.0.sha256: string should match"),
        (f"keys:\n- {{name: a b, sha256: {'0' * 64}}}", ":2: keys.0.name: string should match"),
        (f"keys:\n{f'- {{name: a, sha256: {chr(48) * 64}}}' + chr(10)}" * 1 + "- 1", "keys.1"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        over(path)
    assert message in str(caught.value)


def test_two_keys_of_one_name_are_a_mistake() -> None:
    both = [entry("a", "k1").model_dump(), entry("a", "k2").model_dump()]
    with pytest.raises(ValueError, match="two keys named 'a'"):
        ServerConfig.model_validate({"api_keys": both})
    with pytest.raises(ConfigError, match="two keys named 'a'"):
        keys.from_environment({keys.ENV_VAR: "a=1,a=2"})


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    add(file, entry("a", "k1"))
    file.chmod(mode)
    with pytest.raises(ConfigError, match="may be written by others"):
        over(file)


def test_a_file_of_another_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(file, entry("a", "k1"))
    if os.geteuid() == 0:  # root's files are trusted by everybody
        os.chown(file, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(ConfigError, match="belongs to another user"):
        over(file)


def test_a_file_that_is_named_must_exist(file: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; 'clinvk keys create NAME' makes it"):
        over(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        over(tmp_path)


def test_a_name_is_given_once(file: Path) -> None:
    add(file, entry("a", "k1"))
    with pytest.raises(ConfigError, match="has a key named 'a'"):
        add(file, entry("a", "k2"))
    assert read(file) == [entry("a", "k1")]


def test_what_is_not_there_cannot_be_removed(file: Path) -> None:
    assert not remove(file, "a")
    add(file, entry("a", "k1"))
    before = file.stat()
    assert not remove(file, "b")
    assert file.stat().st_ino == before.st_ino


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    link, target = tmp_path / "keys.yaml", tmp_path / "dotfiles.yaml"
    link.symlink_to(target)
    add(link, entry("a", "k1"))
    assert link.is_symlink()
    assert read(target) == read(link) == [entry("a", "k1")]


def test_a_change_that_fails_leaves_the_file_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(file, entry("a", "k1"))

    def full(_: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        add(file, entry("b", "k2"))
    assert read(file) == [entry("a", "k1")]
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


def test_changes_at_once_are_all_kept(file: Path) -> None:
    threads = [threading.Thread(target=add, args=(file, entry(f"k{n}", f"k{n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(key.name for key in read(file)) == [f"k{n}" for n in range(8)]


@pytest.mark.parametrize("text", ["a=b c", "ké", "good-key-of-enough-length,bad\tkey"])
def test_a_key_that_no_header_can_carry_is_named_by_its_place(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        keys.from_environment({keys.ENV_VAR: text})
    number = text.count(",") + 1
    assert f"key {number} must be visible ASCII" in str(caught.value)
    assert "k" not in str(caught.value).split(":")[0].lower().replace("$clinvk_api_keys", "")


def test_a_key_without_a_name_inherits_no_other_name() -> None:
    before, after = ("one-key", "two-key"), ("two-key", "three-key")
    first, second = (keys.from_environment({keys.ENV_VAR: ",".join(k)}) for k in (before, after))
    assert {key.name for key in first} & {key.name for key in second} == {first[1].name}
    assert first[1].digest == second[0].digest


def test_a_short_key_is_warned_of_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    keys.from_environment({keys.ENV_VAR: "bob=hunter2,eve=" + "x" * 20})
    assert "'bob' is so short" in caplog.text
    assert "hunter2" not in caplog.text
    assert "eve" not in caplog.text


def test_no_keys_are_needed_without_any() -> None:
    assert not Keyring(ServerConfig(), env={keys.ENV_VAR: " , "}).required
    assert not Keyring(ServerConfig(), env={}).required


def test_a_configuration_that_is_read_anew_counts() -> None:
    ring = Keyring(ServerConfig(api_keys=[entry("a", "k1")]))
    ring.configure(ServerConfig(api_keys=[entry("b", "k2")]), env={keys.ENV_VAR: "c=k3"})
    assert (ring.names, ring.find("k1")) == (["b", "c"], None)
    ring.configure(ServerConfig())
    assert (ring.names, ring.required) == ([], True)
    with pytest.raises(ConfigError):
        ring.configure(ServerConfig(api_keys=[entry("b", "k2")]), env={keys.ENV_VAR: "a b"})
    assert ring.names == []
