"""What an agent lets one choose, in each of the ways in which agents say so."""

from typing import Any

import pytest

from clinvk.backends.acp_options import choose_effort, choose_mode, choose_model, has_efforts
from clinvk.errors import ModelNotFoundError


def levels(*values: str, **more: Any) -> dict[str, Any]:
    options = [{"value": value, "name": value} for value in values]
    option = {"id": "t", "category": "thought_level", "type": "select", "options": options}
    return {"configOptions": ["nonsense", {"id": "other"}, {**option, **more}]}


def modes(*ids: str) -> dict[str, Any]:
    return {"modes": {"currentModeId": ids[0], "availableModes": [{"id": each} for each in ids]}}


@pytest.mark.parametrize(
    ("effort", "value"),
    [
        ("none", "off"),
        ("minimal", "off"),
        ("low", "low"),
        ("medium", "low"),
        ("high", "high"),
        ("max", "high"),
    ],
)
def test_the_nearest_level_is_chosen(effort: str, value: str) -> None:
    [(method, params)] = choose_effort("s", levels("off", "low", "high"), effort)
    assert method == "session/set_config_option"
    assert params == {"sessionId": "s", "configId": "t", "value": value}


def test_levels_may_be_in_groups_or_only_on_and_off() -> None:
    grouped = levels(options=[{"group": "g", "options": [{"value": "High"}]}])
    [(_, params)] = choose_effort("s", grouped, "low")
    assert params["value"] == "High"
    switch = levels(type="boolean", currentValue=True)
    for effort, on in (("none", False), ("low", True)):
        [(_, params)] = choose_effort("s", switch, effort)
        assert (params["type"], params["value"]) == ("boolean", on)
    assert has_efforts(switch)


def test_levels_may_be_modes() -> None:
    [request] = choose_effort("s", modes("off", "low", "xhigh"), "high")
    assert request == ("session/set_mode", {"sessionId": "s", "modeId": "xhigh"})


@pytest.mark.parametrize(
    "opened",
    [{}, levels(), levels("fast", "slow"), modes("default", "low"), {"configOptions": "none"}],
)
def test_who_offers_no_levels_is_asked_for_none(opened: dict[str, Any]) -> None:
    assert [*choose_effort("s", opened, "high")] == []
    assert not has_efforts(opened)


def test_a_mode_is_asked_for_if_there_is_such_a_one() -> None:
    opened = modes("ask", "default")
    assert [*choose_mode("s", opened, "default")] == [
        ("session/set_mode", {"sessionId": "s", "modeId": "default"})
    ]
    for wanted in ("ask", "yolo", None):
        assert [*choose_mode("s", opened, wanted)] == []


def test_models_are_chosen_as_before_they_were_options() -> None:
    opened = {"models": {"availableModels": [{"modelId": "big"}], "currentModelId": "big"}}
    assert choose_model("s", opened, "big") == (
        "session/set_model",
        {"sessionId": "s", "modelId": "big"},
    )
    with pytest.raises(ModelNotFoundError, match="it has: big"):
        choose_model("s", opened, "small")
