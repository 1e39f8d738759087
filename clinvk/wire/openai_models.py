"""The model objects of the OpenAI API: `GET /models` and `GET /models/{id}`."""

from collections.abc import Iterable, Mapping
from typing import Any

MODELS_CREATED = 1_735_689_600  # 2025-01-01: a CLI's models have no date of their own


def model_body(model_id: str, owned_by: str, can: Mapping[str, str]) -> dict[str, Any]:
    """Return the `model` object; `can` is what clinvk adds to it, by the name of a capability."""
    return {
        "id": model_id,
        "object": "model",
        "created": MODELS_CREATED,
        "owned_by": owned_by,
        "clinvk": dict(can),
    }


def list_body(models: Iterable[tuple[str, str, Mapping[str, str]]]) -> dict[str, Any]:
    """Return the `list` object of models, each given as the arguments of `model_body`."""
    return {"object": "list", "data": [model_body(*model) for model in models]}
