"""A conversation by the Responses API. Usage: python examples/openai_responses.py [MODEL]."""

import os
import sys

from openai import OpenAI


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/openai/v1"),
        api_key="unused",
    )
    model = sys.argv[1] if len(sys.argv) > 1 else "echo"
    first = client.responses.create(model=model, input="Name a colour.")
    print(first.output_text)
    second = client.responses.create(
        model=model, input="And its opposite?", previous_response_id=first.id
    )
    print(second.output_text)


if __name__ == "__main__":
    main()
