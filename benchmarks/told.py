"""An answer, and when its pieces came."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Told:
    """An answer, and when it came: seconds from the question to the first text and to the end."""

    first_s: float = 0.0
    whole_s: float = 0.0
    text: str = ""
    course: str = ""


class Timed:
    """Notes when the pieces of an answer come."""

    def __init__(self) -> None:
        self.told = Told()
        self._began = time.perf_counter()

    def say(self, text: object) -> None:
        """Take a piece."""
        if text and not self.told.text:
            self.told.first_s = time.perf_counter() - self._began
        self.told.text += str(text or "")

    def end(self) -> Told:
        """Take the end, and return all of it."""
        self.told.whole_s = time.perf_counter() - self._began
        return self.told
