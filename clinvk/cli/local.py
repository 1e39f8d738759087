"""What several commands share once they run: a service without a server, and logging."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from clinvk import registry
from clinvk.config import Config
from clinvk.procs.supervisor import Supervisor
from clinvk.service import Service


@asynccontextmanager
async def local_service(config: Config) -> AsyncIterator[Service]:
    """Run turns in this process; leaving stops every child and awaits its end."""
    async with Supervisor() as supervisor:
        service = Service(config, registry.build(config, supervisor), supervisor)
        try:
            yield service
        finally:
            service.close()


def models_of(config: Config) -> list[registry.ModelRow]:
    """Return the models that a configuration offers on this machine."""

    async def rows() -> list[registry.ModelRow]:
        async with local_service(config) as service:
            return service.registry.rows()

    return anyio.run(rows)


def set_up_logging(level: str) -> None:
    """Log to stderr, one line an event."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
