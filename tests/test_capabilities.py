"""What is refused, by the claims of a backend; the claims themselves are in tests/real."""

import base64
from dataclasses import fields, replace
from typing import Any

import pytest

from clinvk.backends import claims
from clinvk.capabilities import TITLES, Capabilities, Level, require_parts
from clinvk.errors import UnsupportedError
from clinvk.turn import AudioPart, FilePart, ImagePart, Message, Part, Role, TextPart, Turn
from tests.test_media import PNG

PDF = base64.b64encode(b"%PDF-1.7").decode()
PARTS: dict[str, Part] = {
    "vision": ImagePart(data=PNG),
    "image_urls": ImagePart(url="https://example.com/a.png"),
    "audio": AudioPart("wav", "AA=="),
    "files": FilePart("a", data="YQ=="),
    "pdf": FilePart("a", data=PDF),
}
ALL = replace(claims.CLAUDE, audio=Level.NATIVE)


def asked(part: Part) -> Turn:
    said = Message(Role.USER, (TextPart("a"),))
    return Turn("m", (said, Message(Role.USER, (TextPart("see"), part))))


@pytest.mark.parametrize("capability", PARTS)
def test_a_part_is_refused_by_its_place_and_who_can_take_it_is_named(capability: str) -> None:
    turn = asked(PARTS[capability])
    no: dict[str, Any] = {capability: Level.NO}
    can = replace(ALL, **no)
    with pytest.raises(UnsupportedError) as caught:
        require_parts(turn, "b", can, lambda needed: [f"has {needed}", "other"])
    assert caught.value.param == "messages[1].content[1]"
    assert f"has {capability} and other can" in caught.value.message
    with pytest.raises(UnsupportedError, match=r"^'b' cannot take .*; send "):
        require_parts(turn, "b", can, lambda _: [])
    require_parts(turn, "b", ALL, lambda _: [])


def test_every_claim_has_a_title_and_a_word_that_a_client_is_told() -> None:
    names = [field.name for field in fields(Capabilities)]
    assert list(TITLES) == names
    for can in claims.BY_KIND.values():
        assert list(can.told()) == names
        assert all(type(word) is str for word in can.told().values())
