import pytest

from clinvk.errors import BadRequestError, UnsupportedError
from clinvk.turn import (
    ImagePart,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolSpec,
    Turn,
    require_known_calls,
    require_text_only,
)


def test_instructions_are_all_system_and_developer_texts_in_order() -> None:
    turn = Turn(
        "m",
        (
            Message(Role.SYSTEM, (TextPart("one"), TextPart(" more"))),
            Message(Role.USER, (TextPart("hi"),)),
            Message(Role.DEVELOPER, (TextPart("two"),)),
        ),
    )
    assert turn.instructions == "one more\n\ntwo"
    assert [m.text for m in turn.conversation] == ["hi"]


def test_a_part_that_is_not_text_is_refused_by_its_path() -> None:
    turn = Turn("m", (Message(Role.USER, (TextPart("a"), ImagePart(url="http://x/y.png"))),))
    with pytest.raises(UnsupportedError) as caught:
        require_text_only(turn, "b")
    assert caught.value.param == "messages[0].content[1]"
    assert "image" in caught.value.message


def test_tools_are_refused_by_name() -> None:
    turn = Turn("m", (Message(Role.USER, (TextPart("a"),)),), tools=(ToolSpec("f"),))
    with pytest.raises(UnsupportedError) as caught:
        require_text_only(turn, "b")
    assert caught.value.param == "tools"


def test_a_format_is_refused_by_name() -> None:
    turn = Turn("m", (Message(Role.USER, (TextPart("a"),)),), format=OutputFormat())
    with pytest.raises(UnsupportedError) as caught:
        require_text_only(turn, "b")
    assert caught.value.param == "response_format"


@pytest.mark.parametrize("call_id", ["call_2", None])
def test_a_result_without_a_call_before_it_is_refused_by_its_id(call_id: str | None) -> None:
    called = Message(Role.ASSISTANT, (), (PriorCall("call_1", "f", "{}"),))
    answered = Message(Role.TOOL, (TextPart("1"),), call_id="call_1")
    require_known_calls(Turn("m", (called, answered, answered)))
    stray = Message(Role.TOOL, (TextPart("2"),), call_id=call_id)
    with pytest.raises(BadRequestError) as caught:
        require_known_calls(Turn("m", (called, answered, stray)))
    assert caught.value.param == "messages[2].tool_call_id"
    assert repr(call_id) in caught.value.message
