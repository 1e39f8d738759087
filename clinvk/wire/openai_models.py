"""The model objects of the OpenAI API: `GET /models` and `GET /models/{id}`."""

from collections.abc import Iterable
from typing import Any

MODELS_CREATED = 1_735_689_600  # 2025-01-01: a CLI's models have no date of their own


def model_body(model_id: str, owned_by: str) -> dict[str, Any]:
    """Return the `model` object."""
    return {"id": model_id, "object": "model", "created": MODELS_CREATED, "owned_by": owned_by}


def list_body(models: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the `list` object of models, each given as its id and its owner."""
    return {"object": "list", "data": [model_body(*model) for model in models]}
