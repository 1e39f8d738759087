"""Ask a model with the OpenAI client. Usage: python examples/openai_chat.py [MODEL]."""

import os
import sys

from openai import OpenAI


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/openai/v1"),
        api_key="unused",
    )
    completion = client.chat.completions.create(
        model=sys.argv[1] if len(sys.argv) > 1 else "echo",
        messages=[
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": "Why is the sky blue?"},
        ],
    )
    print(completion.choices[0].message.content)
    if completion.usage is not None:
        print(f"{completion.usage.total_tokens} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
