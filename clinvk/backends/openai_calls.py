"""Pieces of function calls, put together as whole ones, however a server cuts and numbers them.

Pure. OpenAI's own server numbers its calls and tells id and name once. Others leave the number
out, give every call the number 0, repeat the id, make a new one for every piece, repeat the name
or cut it, or send the arguments as an object.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from clinvk.events import ToolCall, require_end

CALL_CHARS = 64  # what a piece may cost beside its text


class Function(BaseModel):
    """The name and the arguments in a piece; the arguments are text, or an object."""

    name: str | None = None
    arguments: Any = None


class CallPiece(BaseModel):
    """What one chunk says of one call."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class _Call:
    """A call that may go on; `parts` are of its arguments."""

    def __init__(self, ident: str, name: str) -> None:
        self.id = ident
        self.name = name
        self.parts: list[str] = []

    def is_whole(self) -> bool:
        """Whether its arguments are a whole object."""
        if not self.parts[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads("".join(self.parts)), dict)
        except ValueError:
            return False


class Calls:
    """Takes pieces in the order they come; `whole` are the calls that they make."""

    def __init__(self) -> None:
        self._made: list[_Call] = []
        self._at: dict[int, int] = {}  # by a server's number, which of ours it is now
        self._chars = 0

    @property
    def whole(self) -> list[ToolCall]:
        """The calls, in the order they began."""
        return [ToolCall(call.id, call.name, "".join(call.parts)) for call in self._made]

    def push(self, piece: CallPiece) -> None:
        """Take the next piece.

        Raises:
            CliProtocolError: if there is no end of them.
        """
        function = piece.function or Function()
        name, arguments = function.name or "", _text(function.arguments)
        self._chars += len(name) + len(arguments) + 1
        require_end(self._chars)
        at = self._place(piece, name, arguments)
        if at is None:
            at = len(self._made)
            self._made.append(_Call(piece.id or _own_id(at), name))
        else:
            call = self._made[at]
            if piece.id and call.id == _own_id(at):
                call.id = piece.id
            call.name = _joined(call.name, name, begun=bool(call.parts))
        if arguments:
            self._made[at].parts.append(arguments)
        if piece.index is not None:
            self._at[piece.index] = at

    def _place(self, piece: CallPiece, name: str, arguments: str) -> int | None:
        """Return which call a piece belongs to, None if it begins one."""
        if piece.index is None:
            for at, call in enumerate(self._made):
                if call.id == piece.id:
                    return at
            at_last = len(self._made) - 1
            place = None if piece.id or at_last < 0 else at_last
        else:
            place = self._at.get(piece.index)
        if place is None or not name:
            return place
        before = self._made[place]
        if before.parts:
            begins = (name != before.name or bool(arguments)) and before.is_whole()
        else:
            told = before.id != _own_id(place) and bool(piece.id)
            begins = told and piece.id != before.id and name != before.name
        return None if begins else place


def _own_id(at: int) -> str:
    return f"call_{at}"


def _joined(before: str, piece: str, *, begun: bool) -> str:
    """Return the name after a piece of it, which may be the next part or the whole again."""
    if not piece or begun or before == piece:
        return before or piece
    return piece if piece.startswith(before) else before + piece


def _text(arguments: object) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
