"""The real npm openai package against a served clinvk."""

import json
from pathlib import Path

import anyio

from clinvk import config
from clinvk.server.app import create_app
from tests.serving import API, serving

REAL = Path(__file__).parents[1] / "real"


async def test_the_node_client_needs_nothing_but_the_address() -> None:
    echo = config.parse("backends:\n  echo: {kind: echo}\n", name="t", env={})
    async with serving(create_app(echo)) as url:
        with anyio.fail_after(60):
            done = await anyio.run_process(
                ["node", REAL / "openai_client.mjs", url + API, "echo"], cwd=REAL
            )
    seen = json.loads(done.stdout)
    assert seen["whole"] == seen["helper"] == "say one two three"
    assert seen["pieces"] == ["say", " one", " two", " three"]
    assert seen["finish"] == "stop"
    assert seen["usage"]["total_tokens"] > 0
    assert seen["requestId"].startswith("req_")
    assert seen["models"] == ["echo"]
    assert seen["error"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
