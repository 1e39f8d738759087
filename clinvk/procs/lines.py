"""Bytes in, lines out: pure, bounded, and blind to what a line means."""


class LineTooLongError(Exception):
    """A line is over the limit; `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a line is longer than {limit} bytes")
        self.limit = limit


class LineFramer:
    """Cuts a byte stream at newlines.

    A line is returned without its newline (and without a carriage return before it). What
    stands after the last newline waits, up to `limit` bytes.
    """

    __slots__ = ("_limit", "_pending", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: list[bytes] = []
        self._size = 0

    def push(self, chunk: bytes) -> list[bytes]:
        """Take a chunk and return the lines that it completes.

        Raises:
            LineTooLongError: if a line, complete or pending, is over the limit.
        """
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        head, *middle, tail = chunk.split(b"\n")
        self._hold(head)
        lines = [b"".join(self._pending), *middle]
        self._pending = []
        self._size = 0
        self._hold(tail)
        for line in middle:
            if len(line) > self._limit:
                raise LineTooLongError(self._limit)
        return [line.removesuffix(b"\r") for line in lines]

    def flush(self) -> bytes:
        """Return what stands after the last newline, and forget it."""
        rest = b"".join(self._pending)
        self._pending = []
        self._size = 0
        return rest

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise LineTooLongError(self._limit)
        if piece:
            self._pending.append(piece)
