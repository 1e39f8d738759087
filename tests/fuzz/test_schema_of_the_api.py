"""What /openapi.json says of every endpoint, held against the endpoint: requests made of it.

Schemathesis makes them, good and bad ones; every answer must be one that the document knows, and
never a 5xx.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from clinvk.server.docs import openapi
from tests.fuzz.budget import budget
from tests.fuzz.serving import served

DOCUMENT = openapi()
OPERATIONS = [
    (method, path, mode)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    for mode in GenerationMode
    # Nothing can be wrong in a request that has neither a body nor a query.
    if mode is GenerationMode.POSITIVE
    or "requestBody" in operation
    or any(found["in"] == "query" for found in operation.get("parameters", ()))
]
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    status_code_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as address:
        yield address


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_an_endpoint_answers_as_its_description_says(
    method: str, path: str, mode: GenerationMode, url: str
) -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operation = schema[path][method]

    @budget(6)
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        if isinstance(case.body, dict) and case.body.get("model"):
            case.body["model"] = "embeddings" if path.endswith("/embeddings") else "echo"
        streamed = isinstance(case.body, dict) and case.body.get("stream") is True
        # A stream's schema is of the whole; it would be held against each event.
        case.call_and_validate(base_url=url, checks=CHECKS[: -1 if streamed else None])

    holds()
