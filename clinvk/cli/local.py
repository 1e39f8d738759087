"""What several commands share once they run: a service without a server, and logging."""

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio

from clinvk import registry
from clinvk.config import Config
from clinvk.procs.supervisor import Supervisor
from clinvk.service import Service

LOG_LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"


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


def set_up_logging(level: str, form: str = "text") -> None:
    """Log to stderr, one line an event: words, or with `form` "json" an object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(LOG_LINE))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class JsonFormatter(logging.Formatter):
    """An event as one line of JSON; what it is about stands beside its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            **getattr(record, "clinvk", {"message": record.getMessage()}),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)
