"""The real npm openai package over the Responses API of a served clinvk."""

import json
from pathlib import Path

import anyio

from clinvk import config
from clinvk.server.app import create_app
from tests.serving import API, serving

REAL = Path(__file__).parents[1] / "real"
ECHO = 'server: {store: {path: ":memory:"}}\nbackends: {echo: {kind: echo}}\n'
SAID = "say one two three"


async def test_the_node_client_streams_and_goes_on_by_an_id() -> None:
    echo = config.parse(ECHO, name="t", env={})
    async with serving(create_app(echo)) as url:
        with anyio.fail_after(60):
            done = await anyio.run_process(
                ["node", REAL / "openai_responses_client.mjs", url + API, "echo"], cwd=REAL
            )
    seen = json.loads(done.stdout)
    assert seen["whole"] == seen["helper"] == SAID
    assert seen["status"] == "completed"
    assert seen["requestId"].startswith("req_")
    assert seen["pieces"] == ["say", " one", " two", " three"]
    assert (seen["kinds"][0], seen["kinds"][-1]) == ("response.created", "response.completed")
    assert seen["usage"]["total_tokens"] > 0
    assert seen["next"] == "more"
    assert seen["items"] == [SAID, SAID, "more"]
    assert seen["kept"] is True
    assert seen["error"] == {"name": "NotFoundError", "status": 404}
