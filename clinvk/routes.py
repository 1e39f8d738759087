"""The routes as they stand in backends.yaml: models that several backends can answer for.

Owns what may be set; clinvk.routing decides who is asked.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FallbackOn = Literal[
    "not_installed",
    "not_logged_in",
    "rate_limited",
    "overloaded",
    "busy",
    "timeout",
    "unreachable",
    "crashed",
    "upstream",
    "permission",
    "model_not_found",
    "context_too_long",
]
# What another backend need not suffer from, and no caller can mend.
DEFAULT_FALLBACK: list[FallbackOn] = [
    "not_installed",
    "not_logged_in",
    "rate_limited",
    "overloaded",
    "busy",
    "timeout",
    "unreachable",
    "crashed",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TargetConfig(_Strict):
    """A backend or backend/model; targets side by side with weights share the conversations."""

    target: Annotated[str, Field(min_length=1)]
    weight: float | None = Field(default=None, gt=0, le=1_000_000)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:  # noqa: ANN401 - YAML
        return {"target": value} if isinstance(value, str) else value


class RouteConfig(_Strict):
    """Who answers for a model, in order.

    `fallback` are the failures after which the next is asked, while nothing was told. With
    `sticky` a conversation stays where it is. A target that failed so is asked last for as long
    as it says, else for `rest_s` seconds; 0 asks it again at once.
    """

    targets: list[TargetConfig] = Field(min_length=1)
    fallback: list[FallbackOn] = DEFAULT_FALLBACK
    sticky: bool = True
    rest_s: float = Field(default=30, ge=0, le=86_400)

    @model_validator(mode="before")
    @classmethod
    def _targets_alone(cls, value: Any) -> Any:  # noqa: ANN401 - YAML
        return {"targets": value} if isinstance(value, list) else value

    @field_validator("targets")
    @classmethod
    def _targets_differ(cls, value: list[TargetConfig]) -> list[TargetConfig]:
        seen: set[str] = set()
        for each in value:
            if each.target in seen:
                raise ValueError(f"{each.target!r} is there twice")
            seen.add(each.target)
        return value
