"""A served application on a free loopback port, as `clinvk serve` runs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from clinvk.server.access import broken_requests

API = "/openai/v1"


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serve `app` and give its address, without the API's prefix."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=broken_requests,
        shutdown_timeout=1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
