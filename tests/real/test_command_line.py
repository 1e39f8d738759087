"""`clinvk run` and `clinvk doctor` over each real CLI and a fake of its model API."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import anyio.lowlevel
import psutil
import pytest
import yaml

from tests.fakes.api import FakeApi, Reply
from tests.real.bridge import FAKES, clean_environment, settings

ROOT = Path(__file__).parents[2]
CLIS = pytest.mark.parametrize("name", ["claude", "codex", "gemini"])
HANG_S = 60  # a guard, never reached by a test that passes

pytestmark = pytest.mark.real


@dataclass
class Command:
    """A `clinvk` that knows one CLI, and the fake behind that."""

    fake: FakeApi
    config: Path
    env: dict[str, str]

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clinvk", *args, "--config", str(self.config)),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=self.env,
            cwd=self.config.parent,
        )

    async def __call__(self, *args: str) -> tuple[int | None, str, str]:
        process = await self.start(*args)
        with anyio.fail_after(HANG_S):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def command(name: str, folder: Path) -> AsyncIterator[Command]:
    home, temp = folder / "home", folder / "tmp"
    home.mkdir()
    temp.mkdir()
    async with FAKES[name]().running() as fake:
        path = folder / "backends.yaml"
        path.write_text(yaml.safe_dump({"backends": {name: settings(name, fake, home)}}))
        env = {**clean_environment(home), "PYTHONPATH": str(ROOT)}
        yield Command(fake, path, env)


@CLIS
async def test_run_streams_the_answer_of_the_real_cli(name: str, tmp_path: Path) -> None:
    async with command(name, tmp_path) as clinvk:
        clinvk.fake.answer(Reply(hold=2))
        process = await clinvk.start("run", "Say hello.")
        assert process.stdout is not None
        with anyio.fail_after(HANG_S):
            assert await process.stdout.readexactly(10) == b"Hello from"
            clinvk.fake.release.set()
            out, err = await process.communicate()
    assert (process.returncode, out) == (0, b" the fake.\n")
    assert err.decode().startswith(f"{name} (") or err.decode().startswith(f"{name}: ")
    assert "7 out" in err.decode()


@CLIS
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_signal_closes_the_request_to_the_model(
    name: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    async with command(name, tmp_path) as clinvk:
        clinvk.fake.answer(Reply(hold=2))
        process = await clinvk.start("run", "Say hello.")
        assert process.stdout is not None
        with anyio.fail_after(HANG_S):
            await process.stdout.readexactly(10)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            out, err = await process.communicate()
            while clinvk.fake.open:
                await anyio.lowlevel.checkpoint()  # the fake notices at its next turn of this loop
    assert (process.returncode, out, err) == (code, b"", b"")
    assert clinvk.fake.aborted == 1
    assert children
    assert not any(child.is_running() for child in children)
    assert not list((tmp_path / "tmp").glob("clinvk*"))


@CLIS
async def test_doctor_probes_the_real_cli(name: str, tmp_path: Path) -> None:
    async with command(name, tmp_path) as clinvk:
        code, out, err = await clinvk("doctor", "--probe", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)[name]
    assert found["state"] == "ready"
    assert found["tested"] is True
    assert found["works"] is True
    assert 0 < found["probe"]["first_s"] <= found["probe"]["total_s"]


@CLIS
async def test_refused_login_is_exit_3_with_the_command(name: str, tmp_path: Path) -> None:
    async with command(name, tmp_path) as clinvk:
        clinvk.fake.answer(Reply(status=401))
        code, out, err = await clinvk("run", "Say hello.")
    assert (code, out) == (3, "")
    assert err.startswith("clinvk: ")
    assert name in err
    assert "login" in err
