"""A fake of a model API in a process of its own, that answers at once what it was asked for.

Asked `N TOKEN` last, it answers as `benchmarks.fake_codex.expected` says. Each line on stdin is
answered by a JSON list of what was sent up since the last: sizes in bytes, and how many bytes
from its beginning on a request shares with the one before it.

    python -m benchmarks.upstream claude|codex|gemini
"""

import asyncio
import json
import re
import sys
from typing import Any

from benchmarks.fake_codex import deltas
from benchmarks.stats import same_prefix
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.api import Captured, FakeApi, Reply
from tests.fakes.gemini import FakeGemini
from tests.fakes.responses import FakeResponses

FAKES: dict[str, type[FakeApi]] = {
    "claude": FakeAnthropic,
    "codex": FakeResponses,
    "gemini": FakeGemini,
}
_ASKED = re.compile(r"\b(\d+ token-[\w-]+)")


def asked_in(body: str) -> str:
    """Return the last question in the JSON of a request, an empty text if there is none."""
    found = _ASKED.findall(body)
    return str(found[-1]) if found else ""


class Answering:
    """Answers a fake's requests, and keeps what they weighed."""

    def __init__(self, fake: FakeApi) -> None:
        self._fake = fake
        self._before = b""
        self._weighed: list[dict[str, int]] = []

    def script(self, request: Captured) -> Reply:
        """Answer a request; the fake forgets it."""
        self._fake.requests.clear()
        body = json.dumps(request.body)
        sent = body.encode()
        size = int(request.headers.get("content-length", len(sent)))
        self._weighed.append({"bytes": size, "same": same_prefix(self._before, sent)})
        self._before = sent
        asked = asked_in(body)
        return Reply(text=tuple(deltas(asked))) if asked else Reply()

    def weighed(self) -> list[dict[str, int]]:
        """Return what was sent up since this was last asked for."""
        weighed, self._weighed = self._weighed, []
        return weighed


async def main(name: str) -> None:
    """Serve on a free port, say where, and answer stdin until it ends."""
    async with FAKES[name]().running() as fake:
        answering = Answering(fake)
        fake.script = answering.script
        _say(fake.url)
        while await asyncio.to_thread(sys.stdin.readline):
            _say(json.dumps(answering.weighed()))


def _say(line: Any) -> None:  # noqa: ANN401 - printable
    print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
