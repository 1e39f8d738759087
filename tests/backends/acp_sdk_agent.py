"""An agent made with the protocol's own SDK, which takes no message that breaks its schema.

It gets the tools with MCP's own client, calls each that it finds, and says what came of it.
"""

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any

import acp
from acp import schema
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import TextContent


class Agent:
    """Answers with what it was told."""

    def __init__(self) -> None:
        self._client: acp.Client | None = None
        self._login = "nobody"
        self._servers: dict[str, list[Any]] = {}
        self._efforts: dict[str, str] = {}

    def on_connect(self, conn: acp.Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **told: Any) -> schema.InitializeResponse:
        about = told["client_info"]
        return schema.InitializeResponse(
            protocol_version=min(protocol_version, acp.PROTOCOL_VERSION),
            agent_info=schema.Implementation(name=f"for {about.name}", version="1.0"),
            agent_capabilities=schema.AgentCapabilities(
                session_capabilities=schema.SessionCapabilities(
                    close=schema.SessionCloseCapabilities()
                )
            ),
        )

    async def authenticate(self, method_id: str, **_: Any) -> schema.AuthenticateResponse:
        self._login = method_id
        return schema.AuthenticateResponse()

    async def new_session(self, cwd: str, **told: Any) -> schema.NewSessionResponse:
        session = uuid.uuid4().hex
        self._servers[session] = told["mcp_servers"] or []
        return schema.NewSessionResponse(session_id=session, config_options=[effort("low")])

    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **_: Any
    ) -> schema.SetSessionConfigOptionResponse:
        self._efforts[session_id] = f"{config_id}={value}"
        return schema.SetSessionConfigOptionResponse(config_options=[effort(str(value))])

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> schema.PromptResponse:
        text = "".join(block.text for block in prompt)
        if text == "who am I?":
            await self._say(session_id, f"{self._login} {self._efforts.get(session_id)}")
        for server in self._servers[session_id]:
            await self._say(session_id, await called(server))
        if not self._servers[session_id]:
            await self._say(session_id, f" {text}")
        return schema.PromptResponse(stop_reason="end_turn")

    async def close_session(self, session_id: str, **_: Any) -> schema.CloseSessionResponse:
        del self._servers[session_id]
        return schema.CloseSessionResponse()

    async def _say(self, session: str, text: str) -> None:
        assert self._client is not None
        await self._client.session_update(session, acp.update_agent_message_text(text))


def effort(now: str) -> schema.SessionConfigOptionSelect:
    values = [schema.SessionConfigSelectOption(name=v, value=v) for v in ("low", "high")]
    return schema.SessionConfigOptionSelect(
        type="select",
        id="thinking",
        name="Thinking",
        category="thought_level",
        current_value=now,
        options=values,
    )


async def called(server: schema.McpServerStdio) -> str:
    """Call every tool of a server at once and return what they said."""
    env = {each.name: each.value for each in server.env}
    parameters = StdioServerParameters(command=server.command, args=server.args, env=env)
    async with AsyncExitStack() as stack:
        streams = await stack.enter_async_context(stdio_client(parameters))
        session = await stack.enter_async_context(ClientSession(*streams))
        await session.initialize()
        tools = (await session.list_tools()).tools
        results = await asyncio.gather(*(session.call_tool(t.name, {"of": t.name}) for t in tools))
        blocks = [block for result in results for block in result.content]
        return "; ".join(block.text for block in blocks if isinstance(block, TextContent))


if __name__ == "__main__":
    agent: Any = Agent()  # of what the SDK asks for, it has what is used here
    asyncio.run(acp.run_agent(agent))
