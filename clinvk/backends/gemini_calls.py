"""The calls of the caller's tools in one gemini session: pure, but for answering those it holds.

Observed with gemini 0.61.0: of the calls in one response of the model it makes one after another,
each once the one before has its result. It tells of each by an update, and asks clinvk's server
for its result. The whole response stands in the file of recorded responses by then, so that all
its calls can be told at once; without that file they are told one by one.
"""

import json
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clinvk.backends.gemini_api import Record
from clinvk.backends.gemini_tools import PREFIX, arguments_of
from clinvk.errors import CliCrashedError
from clinvk.events import ToolCall
from clinvk.toolserver import Call

Content = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Told:
    """A call that the caller knows of, as gemini will make it."""

    id: str
    name: str
    arguments: dict[str, Any]


class Calls:
    """Which calls were made, told and answered.

    `names` has the caller's name of each tool by the name that the model sees. `hidden` is true
    once the session knows of a call, or its fate, that the caller does not.
    """

    def __init__(self, names: Mapping[str, str], *, parallel: bool) -> None:
        self.hidden = False
        self._names = names
        self._parallel = parallel
        self._known_ids: set[str] = set()
        self._shown: str | None = None
        self._held: deque[Call] = deque()
        self._told: deque[_Told] = deque()
        self._results: dict[str, Content] = {}

    @property
    def shown(self) -> str | None:
        """The id that gemini gave the first call of a response, once it holds that call."""
        return self._shown if self._held and not self._told else None

    @property
    def owed(self) -> bool:
        """Whether gemini has not yet asked for a call that was told."""
        return bool(self._told)

    @property
    def dropped(self) -> bool:
        """Whether gemini no longer waits for what it asked for."""
        return any(call.gone for call in self._held)

    def show(self, call_id: str) -> None:
        """Take that gemini begins a call."""
        if call_id not in self._known_ids:
            self._shown = call_id

    def hold(self, call: Call) -> None:
        """Take a call that gemini waits for.

        Raises:
            CliCrashedError: if it is none of those that were told.
        """
        self._held.append(call)
        self._deliver()

    def tell(self, record: Record | None) -> list[ToolCall]:
        """Return the calls of the response that `shown` is of, and that `record` holds."""
        first = (PREFIX + self._held[0].name, self._held[0].arguments)
        recorded = [] if record is None else [(c.name, c.arguments) for c in record.calls]
        made = [call for call in recorded if call[0] in self._names]
        if record is not None:
            self._known_ids |= {call.id for call in record.calls}
        # What gemini passed over, because it was wrong, it has told the model itself.
        made = made[made.index(first) :] if first in made else [first]
        most = None if self._parallel else 1
        passed = made[:most]
        self.hidden |= record is not None and passed != recorded
        self._known_ids.add(str(self._shown))
        self._shown = None
        self._told.extend(_Told(f"call_{secrets.token_hex(12)}", *call) for call in passed)
        return [
            ToolCall(
                told.id,
                self._names.get(told.name, told.name.removeprefix(PREFIX)),
                json.dumps(arguments_of(told.arguments), ensure_ascii=False),
            )
            for told in self._told
        ]

    def answer(self, results: Mapping[str, Content]) -> None:
        """Take the results of all calls that were told, by their ids, and pass them on."""
        self._results = dict(results)
        self._deliver()

    def _deliver(self) -> None:
        while self._held and self._results:
            call = self._held.popleft()
            told = self._told.popleft()
            if (told.name, told.arguments) != (PREFIX + call.name, call.arguments):
                raise CliCrashedError(f"gemini did not make the call {told.id!r} that it was to")
            call.answer(self._results.pop(told.id))
