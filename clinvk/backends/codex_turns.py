"""Starts a turn on an app-server: a new thread, the conversation put into it, and go.

The turn is started without input. What stands in a turn's input is searched by codex for `$skill`
and other mentions, and files of the user's are added to it; injected items are not touched.
"""

from typing import Any

import anyio

from clinvk.backends.codex_format import output_schema
from clinvk.backends.codex_home import OWN_PROVIDER
from clinvk.backends.codex_items import items
from clinvk.backends.codex_server import AppServer, Thread
from clinvk.backends.codex_tools import dynamic_tools
from clinvk.errors import BadRequestError, CliProtocolError, UnavailableError
from clinvk.procs.rpc import RpcError
from clinvk.turn import Turn

BEGIN_S = 30.0
_TOOL_REFUSED = "dynamic tool"


async def begin(server: AppServer, turn: Turn, model: str | None) -> Thread:
    """Return the thread whose turn has begun; `leave` it when done.

    Raises:
        BadRequestError: if it refused the caller's tools.
        CliCrashedError: if the server ended before the turn had begun.
        CliProtocolError: if it did not begin it in time, or not as expected.
        UnavailableError: if it would not, for instance for its configuration.
    """
    thread: Thread | None = None
    try:
        # Cancelled half way the thread's id would be lost, and the thread never unloaded.
        with anyio.fail_after(BEGIN_S, shield=True):
            thread = await _thread(server, turn, model)
            place = {"threadId": thread.id}
            await server.request("thread/inject_items", {**place, "items": items(turn)})
            effort = turn.effort and server.catalog.effort(turn.effort, thread.model)
            chosen: dict[str, Any] = {"effort": effort} if effort else {}
            if (schema := output_schema(turn.format)) is not None:
                chosen["outputSchema"] = schema
            started = await server.request("turn/start", {**place, "input": [], **chosen})
            thread.turn_id = str(started["turn"]["id"])
            return thread
    except BaseException as exc:
        if thread is not None:
            server.leave(thread, done=False)
        match exc:
            case RpcError(message=said) if said.lower().startswith(_TOOL_REFUSED):
                raise BadRequestError(f"codex refused the tools: {said}", param="tools") from exc
            case RpcError():
                raise UnavailableError(f"codex would not start the turn: {exc.message}") from exc
            case TimeoutError():
                said = f"codex did not start the turn within {BEGIN_S:g} s"
                raise CliProtocolError(said) from exc
            case KeyError() | TypeError():
                raise CliProtocolError("codex started a turn in a way unknown here") from exc
        raise


async def _thread(server: AppServer, turn: Turn, model: str | None) -> Thread:
    extra = server.catalog.entry_for(model)
    catalog = None if extra is None else server.home.add_catalog([extra])
    config: dict[str, Any] = {} if catalog is None else {"model_catalog_json": str(catalog)}
    if server.home.own_provider and server.version:
        # The built-in provider sends this header, too.
        config[f"model_providers.{OWN_PROVIDER}.http_headers"] = {"version": server.version}
    params: dict[str, Any] = {
        "cwd": str(server.home.work),
        "ephemeral": True,
        "approvalPolicy": "never",
        "sandbox": "read-only",
        "environments": [],
        "baseInstructions": "",
        "config": config,
    }
    if model is not None:
        params["model"] = model
    if tools := dynamic_tools(turn):
        params["dynamicTools"] = tools
        # Only these tell when a response is complete, and with it the list of its calls.
        params["experimentalRawEvents"] = True
    try:
        reply = await server.request("thread/start", params)
    finally:
        if catalog is not None:
            server.home.drop_catalog(catalog)
    return server.join(str(reply["thread"]["id"]), str(reply.get("model") or model))
