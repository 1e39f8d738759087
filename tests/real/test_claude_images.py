"""The real Claude Code with images: they reach the model as images."""

import base64
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.errors import BadRequestError, UnsupportedError
from clinvk.turn import AudioPart, FilePart, ImagePart, Message, PriorCall, Role, TextPart, ToolSpec
from tests.real.claude_world import World, answer, failure, make_world, run, said, turn

pytestmark = pytest.mark.real

GIF = "R0lGODdhAgACAIEAAP8AAAAAAAAAAAAAACwAAAAAAgACAAAIBgABCAQQEAA7"
WEBP = (
    "UklGRjwAAABXRUJQVlA4IDAAAADQAQCdASoCAAIAAUAmJaACdLoB+AADsAD+8ut//NgVzXPv9//S4P0uD9Lg/9KQAAA="
)


def png(width: int, height: int) -> str:
    """A black picture, as base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    raw = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + raw).decode()


PNG = png(2, 2)


def block(media_type: str, data: str) -> dict[str, Any]:
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": data},
    }


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


async def test_images_reach_the_model_where_they_stood(world: World) -> None:
    address = "http://127.0.0.1:9/x.png"
    parts = (
        TextPart("What is"),
        ImagePart(url=f"data:image/png;base64,{PNG}"),
        ImagePart(media_type="image/gif", data=GIF),
        TextPart("this?"),
        ImagePart(url=f"data:image/webp;base64,{WEBP}"),
        ImagePart(url=address),
    )
    earlier = Message(Role.USER, (ImagePart(data=PNG),))
    asked = turn(earlier, said("assistant", "black"), Message(Role.USER, parts))
    assert answer(await run(world.backend(), asked)) == "Hello from the fake."
    assert world.asked() == [
        ("user", [block("image/png", PNG)]),
        ("assistant", ["black"]),
        (
            "user",
            [
                "What is",
                block("image/png", PNG),
                block("image/gif", GIF),
                "this?",
                block("image/webp", WEBP),
                {"type": "image", "source": {"type": "url", "url": address}},
            ],
        ),
    ]
    assert len(world.fake.turns) == 1


async def test_an_image_alone_is_a_message(world: World) -> None:
    await run(world.backend(), turn(Message(Role.USER, (ImagePart(data=PNG), TextPart(" ")))))
    assert world.asked() == [("user", [block("image/png", PNG)])]


async def test_a_tools_result_may_hold_images(world: World) -> None:
    call = PriorCall("c", "look", "{}")
    parts = (TextPart("front"), ImagePart(data=PNG), TextPart("back"), ImagePart(data=GIF))
    result = Message(Role.TOOL, parts, call_id="c")
    asked = turn("hi", said("assistant", calls=(call,)), result, "so?", tools=(ToolSpec("look"),))
    await run(world.backend(), asked)
    content = [
        {"type": "text", "text": "front"},
        block("image/png", PNG),
        {"type": "text", "text": "back"},
        block("image/gif", GIF),
    ]
    sent = {"type": "tool_result", "tool_use_id": "c", "content": content}
    assert world.asked()[-1] == ("user", [sent, "so?"])


async def test_a_large_image_is_scaled_by_the_cli(world: World) -> None:
    await run(world.backend(), turn(Message(Role.USER, (ImagePart(data=png(3000, 1500)),))))
    ((_, (image, note)),) = world.asked()
    assert image["type"] == "image"
    assert "original 3000x1500, displayed at 2000x1000" in note


async def test_what_is_no_image_is_refused_by_its_place(world: World) -> None:
    backend = world.backend()
    bmp = Message(Role.USER, (TextPart("a"), ImagePart(url="data:image/bmp;base64,Qk0=")))
    refused = await failure(backend, turn("hi", bmp))
    assert isinstance(refused, BadRequestError)
    assert refused.param == "messages[1].content[1]"
    for role, part in (
        ("system", ImagePart(data=PNG)),
        ("assistant", ImagePart(data=PNG)),
        ("user", AudioPart("wav", "UklGRg==")),
        ("assistant", FilePart("a.pdf", data="JVBERi0=")),
    ):
        refused = await failure(backend, turn("hi", Message(Role(role), (part,))))
        assert isinstance(refused, UnsupportedError)
        assert refused.param == "messages[1].content[0]"
    assert not world.fake.requests
