"""Use a CLI as a LangChain chat model. Usage: python examples/langchain_chat.py [MODEL]."""

import os
import sys

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI


def main() -> None:
    model = ChatOpenAI(
        model=sys.argv[1] if len(sys.argv) > 1 else "echo",
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/openai/v1"),
        api_key="unused",
    )
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You translate into {language}."), ("user", "{text}")]
    )
    for chunk in (prompt | model).stream({"language": "French", "text": "good morning"}):
        print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
