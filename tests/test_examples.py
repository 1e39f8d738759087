"""Every file under examples/ runs and prints an answer."""

import os
import shutil
import sys
from pathlib import Path

import anyio
import pytest

from clinvk import config
from clinvk.server.app import create_app
from tests.serving import API, serving

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
ANSWERS = {
    "curl.sh": '"content":"Say"',
    "openai_chat.py": "Why is the sky blue?",
    "openai_stream.py": "Count from one to five.",
    "openai_responses.py": "And its opposite?",
    "openai_embeddings.py": "A kitten was resting by the window.",
    "langchain_chat.py": "good morning",
    "openai_node.mjs": "Count from one to five.",
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES} == set(ANSWERS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
async def test_an_example_prints_an_answer(path: Path, tmp_path: Path) -> None:
    command = {".py": [sys.executable], ".sh": ["bash"], ".mjs": ["node"]}[path.suffix]
    if path.suffix == ".mjs":  # node finds packages beside the file
        (tmp_path / "node_modules").symlink_to(ROOT / "tests/real/node_modules")
        path = Path(shutil.copy(path, tmp_path))
    name = "embeddings" if "embeddings" in path.name else "echo"
    text = f'server: {{store: {{path: ":memory:"}}}}\nbackends: {{{name}: {{kind: {name}}}}}\n'
    async with serving(create_app(config.parse(text, name="t", env={}))) as url:
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [*command, str(path), name],
                cwd=tmp_path,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(tmp_path),
                    "OPENAI_BASE_URL": url + API,
                },
            )
    assert ANSWERS[path.name] in done.stdout.decode()
