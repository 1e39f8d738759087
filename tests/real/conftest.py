"""The real CLIs from npm, each in a home of its own, pointed at a fake of its model API."""

from pathlib import Path

import pytest

BIN = Path(__file__).parent / "node_modules" / ".bin"


def cli(name: str) -> str:
    """Return the path of a real CLI; its absence is a failure, never a skip."""
    path = BIN / name
    assert path.exists(), f"{name} is missing: run `make test`, which installs it"
    return str(path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    path = tmp_path / "home"
    path.mkdir()
    return path
