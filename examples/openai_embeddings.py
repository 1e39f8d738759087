"""The text nearest to a question. Usage: python examples/openai_embeddings.py [MODEL]."""

import os
import sys

from openai import OpenAI

TEXTS = (
    "The invoice is due within thirty days.",
    "A kitten was resting by the window.",
    "Water boils at one hundred degrees.",
)


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/openai/v1"),
        api_key="unused",
    )
    model = sys.argv[1] if len(sys.argv) > 1 else "embeddings"
    made = client.embeddings.create(model=model, input=["Where is the cat?", *TEXTS])
    question, *vectors = (each.embedding for each in made.data)
    nearness = [sum(a * b for a, b in zip(question, each, strict=True)) for each in vectors]
    print(TEXTS[nearness.index(max(nearness))])


if __name__ == "__main__":
    main()
