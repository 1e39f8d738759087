"""Agents and commands from YAML alone, through a whole server."""

import sys
from pathlib import Path

import aiohttp
import anyio
import pytest
import yaml

from clinvk import config
from clinvk.server.app import create_app
from tests.backends.acp_script import AGENT
from tests.serving import API, serving

HUNG_S = 60
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("how", ["well", "takes stdio alone"])
async def test_an_agent_and_a_command_are_models_like_any_other(tmp_path: Path, how: str) -> None:
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    backends = {
        "agent": {"kind": "acp", "command": [sys.executable, str(script), how]},
        "upper": {
            "kind": "command",
            "command": [sys.executable, "-c", "import sys; print(sys.stdin.read().upper())"],
        },
    }
    settings = {"server": {"store": {"path": ":memory:"}}, "backends": backends}
    parsed = config.parse(yaml.safe_dump(settings), name="t", env={})
    said = [{"role": "user", "content": "call twice"}]
    courses, calls = [], []
    with anyio.fail_after(HUNG_S):
        async with serving(create_app(parsed)) as url, aiohttp.ClientSession(url) as http:
            async with http.get(f"{API}/models") as response:
                rows = (await response.json())["data"]
            assert {row["id"] for row in rows} == {"agent", "upper"}
            for answer in ("1:00", "2:00", None):
                body = {"model": "agent", "messages": said, "tools": [TIME]}
                async with http.post(f"{API}/chat/completions", json=body) as response:
                    courses.append(response.headers["x-clinvk-turn"])
                    message = (await response.json())["choices"][0]["message"]
                for call in message.get("tool_calls", []):
                    calls.append(call["function"]["arguments"])
                    result = {"role": "tool", "tool_call_id": call["id"], "content": answer}
                    said += [message, result]
            body = {"model": "upper", "messages": [{"role": "user", "content": "hi"}]}
            async with http.post(f"{API}/chat/completions", json=body) as response:
                upper = (await response.json())["choices"][0]["message"]["content"]
    assert courses == ["new", "resumed", "resumed"]
    assert calls == ['{"at": 1}', '{"at": 2}']
    assert message["content"] == "1:00 and 2:00"
    assert upper == "HI"
