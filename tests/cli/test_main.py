"""The command itself: fast to answer, and one form for every failure."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from clinvk import __version__
from clinvk.cli.main import COMMANDS, main
from tests.cli.conftest import Clinvk

HEAVY = ("aiohttp", "anyio", "asyncio", "pydantic", "rich", "yaml", "bpe_openai")


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["run", "--help"], ["serve", "-h"]])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from clinvk.cli.main import main\n"
        f"main({args!r}, standalone_mode=False)\n"
        "print('\\n' + json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=30, text=True
    )
    assert not set(HEAVY) & set(json.loads(done.stdout.splitlines()[-1]))


def test_version_is_the_package_version(clinvk: Clinvk) -> None:
    ended = clinvk("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"clinvk, version {__version__}\n", "")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["config", "init"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert " ".join(["Usage: main", *command]) in result.stdout


def test_without_a_command_the_help_is_shown(clinvk: Clinvk) -> None:
    ended = clinvk()
    assert ended.code == 2
    assert ended.err.startswith("Usage: ")
    assert all(name in ended.err for name in COMMANDS)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope"], "no such command 'nope'"),
        (["run", "--nope"], "no such option"),
        (["run", "one", "two"], "unexpected extra argument"),
        (["serve", "--port", "70000"], "70000"),
    ],
)
def test_wrong_arguments_are_a_usage_error(clinvk: Clinvk, args: list[str], message: str) -> None:
    ended = clinvk(*args)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("clinvk: ")
    assert message in ended.err
    assert "--help" in ended.err


def test_wrong_configuration_is_a_usage_error_with_its_place(clinvk: Clinvk) -> None:
    path = clinvk.config(echo={"kind": "echo", "colour": "red"})
    ended = clinvk("run", "hi")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"clinvk: {path}:3: backends.echo.colour: is not a known key\n"
