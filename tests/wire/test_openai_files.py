"""What is said of files: names that are safe to show, and ids in bodies that pass."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import BadRequestError
from clinvk.wire.file_ids import Content, ids_in, put_in
from clinvk.wire.openai_files import ANCHOR, NAME_CHARACTERS, SECONDS, file_fields, file_name

CONTENT = Content("a.pdf", "data:application/pdf;base64,AA==")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("a.pdf", "a.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\ä b.txt", "ä b.txt"),
        ('x".html\r\nSet-Cookie: a=b', 'x".htmlSet-Cookie: a=b'),
        ("\u202egnp.exe\x1b[31m", "gnp.exe[31m"),
        ("half \ud800", "half"),
        ("x" * 300, "x" * NAME_CHARACTERS),
        *((nothing, "file") for nothing in (None, "", "/", "..\\", " ", "\n")),
    ],
)
def test_a_name_is_the_last_of_a_path_on_one_line(told: str | None, shown: str) -> None:
    assert file_name(told) == shown


@given(st.text())
def test_every_name_can_be_shown(told: str) -> None:
    name = file_name(told)
    assert name.isprintable()
    assert 0 < len(name) <= NAME_CHARACTERS
    assert not set(name) & set("/\\")
    name.encode()
    assert file_name(name) == name


def test_an_expiry_has_both_of_its_fields_or_none() -> None:
    assert file_fields({"purpose": "batch"}).seconds is None
    whole = {"purpose": "batch", ANCHOR: "created_at", SECONDS: "7200"}
    assert file_fields({**whole, "other": "x"}).seconds == 7200
    for missing in (ANCHOR, SECONDS):
        with pytest.raises(BadRequestError) as caught:
            file_fields({name: value for name, value in whole.items() if name != missing})
        assert caught.value.param == missing


def body(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"content": list(parts)}, {"content": "text"}, 7]}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "f", "file_data": "own"}},
        {"type": "file", "file": {"file_id": 7}},
        {"type": "file", "file": "f"},
        {"type": "file", "file_id": "f"},
        {"type": "text", "file_id": "f"},
        {"type": ["file"], "file": {"file_id": "f"}},
        {"type": "input_file", "file_id": "f", "file_url": "http://x"},
        {"type": "input_image", "file_id": "f", "image_url": "http://x"},
        "f",
    ],
)
def test_what_is_no_file_by_id_stays_as_it_is(part: Any) -> None:
    asked = body(part)
    before = json.dumps(asked)
    assert ids_in(asked) == []
    put_in(asked, {"f": CONTENT})
    assert json.dumps(asked) == before


def test_only_ids_that_are_known_are_replaced() -> None:
    asked = body(
        {"type": "file", "file": {"file_id": "f", "filename": "", "x": 1}, "y": 2},
        {"type": "file", "file": {"file_id": "g"}},
    )
    assert ids_in(asked) == ["f", "g"]
    put_in(asked, {"f": CONTENT})
    first, second = asked["messages"][0]["content"]
    file = {"filename": "a.pdf", "file_data": CONTENT.url, "x": 1}
    assert first == {"type": "file", "file": file, "y": 2}
    assert second == {"type": "file", "file": {"file_id": "g"}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "input", "content", "output", "type", "file", "file_id", "file_data"]
            ),
            inner | st.sampled_from(["file", "input_file", "input_image", "f"]),
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "model"]), JSON))
def test_no_body_is_too_strange(asked: dict[str, Any]) -> None:
    known = dict.fromkeys(ids_in(asked), CONTENT)
    put_in(asked, known)
    assert ids_in(asked) == []
