"""What is known of each backend's state, and when it is looked at again; starts no turn."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import anyio

from clinvk.backends.base import Backend, Health, State
from clinvk.errors import ClinvkError
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry

HEALTH_MAX_AGE_S = 30.0
HEALTH_TIMEOUT_S = 20.0


class Checks:
    """Looks at the backends of a registry, which may be replaced by another."""

    def __init__(self, registry: Callable[[], Registry], supervisor: Supervisor) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._seen: dict[str, Health] = {}
        self._seen_at = -math.inf
        self._lock = anyio.Lock()

    def forget(self) -> None:
        """Look anew the next time."""
        self._seen = {}

    async def health(self, *, fresh: bool = False) -> dict[str, Health]:
        """Return the state of each backend.

        What was seen last is returned at once and looked at anew behind the scenes when it is
        older than `HEALTH_MAX_AGE_S`; only the first look, or a `fresh` one, is waited for.
        """
        if fresh or not self._seen:
            async with self._lock:
                if fresh or not self._seen:  # who waited here may find it done
                    await self._look()
        elif time.monotonic() - self._seen_at > HEALTH_MAX_AGE_S:
            self._seen_at = time.monotonic()
            self._supervisor.start(self._look)
        backends = self._registry().backends
        return {name: self._now(name, backend) for name, backend in backends.items()}

    def _now(self, name: str, backend: Backend) -> Health:
        """What was seen last, unless the CLI is known to fail since."""
        seen, trouble = self._seen[name], backend.trouble
        if trouble is None or seen.state is not State.READY:
            return seen
        return replace(seen, state=State.FAILING, reason=trouble, fix="clinvk doctor")

    async def _look(self) -> None:
        looked_at: Registry | None = None
        while looked_at is not self._registry():  # it may be replaced during a look
            looked_at = self._registry()
            found: dict[str, Health] = {}
            async with anyio.create_task_group() as group:
                for name, backend in looked_at.backends.items():
                    group.start_soon(_look_at, name, backend, found)
        self._seen = found
        self._seen_at = time.monotonic()


async def _look_at(name: str, backend: Backend, all_found: dict[str, Health]) -> None:
    found = Health(State.FAILING, reason="it did not answer in time", fix="clinvk doctor")
    with anyio.move_on_after(HEALTH_TIMEOUT_S):
        try:
            found = await backend.health()
        except ClinvkError as exc:
            found = Health(State.FAILING, reason=exc.message, fix="clinvk doctor")
    all_found[name] = found
