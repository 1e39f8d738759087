"""Stream an answer with the OpenAI client. Usage: python examples/openai_stream.py [MODEL]."""

import os
import sys

from openai import OpenAI


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/openai/v1"),
        api_key="unused",
    )
    stream = client.chat.completions.create(
        model=sys.argv[1] if len(sys.argv) > 1 else "echo",
        messages=[{"role": "user", "content": "Count from one to five."}],
        stream=True,
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
