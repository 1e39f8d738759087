"""Starts a turn on an app-server: a thread, what it has not heard yet put into it, and go.

The turn is started without input. What stands in a turn's input is searched by codex for `$skill`
and other mentions, and files of the user's are added to it; injected items are not touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from clinvk.backends.codex_format import output_schema
from clinvk.backends.codex_home import OWN_PROVIDER
from clinvk.backends.codex_items import Item, items, message_items
from clinvk.backends.codex_server import AppServer, Thread
from clinvk.backends.codex_tools import dynamic_tools
from clinvk.errors import BadRequestError, CliCrashedError, CliProtocolError, UnavailableError
from clinvk.procs.rpc import RpcError
from clinvk.procs.tail import scrub
from clinvk.turn import Message, Turn

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
        with _started_in_time(server):
            thread = await _thread(server, turn, model)
            await _start(server, thread, turn, items(turn))
            return thread
    except BaseException as exc:
        if thread is not None:
            server.leave(thread, done=False)
        match exc:
            case RpcError(message=said) if said.lower().startswith(_TOOL_REFUSED):
                raise BadRequestError(f"codex refused the tools: {said}", param="tools") from exc
            case RpcError():
                raise UnavailableError(
                    f"codex would not start the turn: {scrub(exc.message)}"
                ) from exc
        raise


async def begin_next(
    server: AppServer, thread: Thread, turn: Turn, said: tuple[Message, ...]
) -> None:
    """Begin the next turn of a thread, which is like `turn` but for what is `said` since.

    Raises:
        CliCrashedError: if the server, or the thread, is no more.
        CliProtocolError: if it did not begin it in time, or not as expected.
    """
    try:
        with _started_in_time(server):
            await _start(server, thread, turn, message_items(said))
    except RpcError as exc:
        raise CliCrashedError(
            f"codex would not go on with the thread: {scrub(exc.message)}"
        ) from exc


@contextmanager
def _started_in_time(server: AppServer) -> Iterator[None]:
    try:
        # Cancelled half way the ids would be lost, and the thread never unloaded.
        with anyio.fail_after(BEGIN_S, shield=True):
            yield
    except TimeoutError as exc:
        server.give_up()
        said = f"codex did not start the turn within {BEGIN_S:g} s; the next turn starts it anew"
        raise CliProtocolError(said) from exc
    except (KeyError, TypeError) as exc:
        raise CliProtocolError("codex started a turn in a way unknown here") from exc


async def _start(server: AppServer, thread: Thread, turn: Turn, told: list[Item]) -> None:
    thread.turn_id = None
    place = {"threadId": thread.id}
    await server.request("thread/inject_items", {**place, "items": told})
    effort = turn.effort and server.catalog.effort(turn.effort, thread.model)
    chosen: dict[str, Any] = {"effort": effort} if effort else {}
    if (schema := output_schema(turn.format)) is not None:
        chosen["outputSchema"] = schema
    started = await server.request("turn/start", {**place, "input": [], **chosen})
    thread.turn_id = str(started["turn"]["id"])


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
