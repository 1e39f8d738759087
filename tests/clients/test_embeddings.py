"""The real clients of OpenAI's embeddings against the embedded model of a served clinvk."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
import tiktoken
from bpe_openai import get_encoding
from langchain_openai import OpenAIEmbeddings
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from clinvk import config
from clinvk.server.app import create_app
from tests.serving import API, serving

REAL = Path(__file__).parents[1] / "real"
HUNG_S = 60
MODEL = "text-embedding-3-small"
CAT, KITTEN = "The cat sat on the windowsill.", "A kitten was resting by the window."
SHARES = "Shares fell sharply after the earnings report."
# Where tiktoken looks for its table before it downloads it, and what that must hold.
TABLE = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
TABLE_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"


@pytest.fixture
async def address() -> AsyncIterator[str]:
    text = 'server: {store: {path: ":memory:"}}\nbackends: {embeddings: {kind: embeddings}}\n'
    async with serving(create_app(config.parse(text, name="t", env={}))) as url:
        yield url + API


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=address, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def tokens_of_tiktoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tiktoken its own table, byte for byte, where it would keep what it downloads."""
    encoding = get_encoding("cl100k_base")
    lines = (
        base64.b64encode(encoding.decode_bytes([rank])) + b" %d\n" % rank for rank in range(100_256)
    )
    table = b"".join(lines)
    assert hashlib.sha256(table).hexdigest() == TABLE_SHA256
    (tmp_path / hashlib.sha1(TABLE.encode()).hexdigest()).write_bytes(table)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_the_python_client_asks_for_base64_and_gets_numbers(client: AsyncOpenAI) -> None:
    made = await client.embeddings.create(model=MODEL, input=[CAT, KITTEN, SHARES])
    numbers = await client.embeddings.create(
        model=MODEL, input=[CAT, KITTEN, SHARES], encoding_format="float"
    )
    cat, kitten, shares = (each.embedding for each in made.data)
    assert [cat, kitten, shares] == [each.embedding for each in numbers.data]
    assert [len(each.embedding) for each in made.data] == [256] * 3
    assert cosine(cat, kitten) > 0.3 > cosine(cat, shares)
    assert made.usage.total_tokens == made.usage.prompt_tokens > 20


async def test_the_python_client_hears_which_input_is_at_fault(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model=MODEL, input=["fine", ""])
    assert caught.value.param == "input[1]"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model=MODEL, input="a", dimensions=1536)
    assert caught.value.param == "dimensions"


async def test_dimensions_and_tokens_by_the_python_client(client: AsyncOpenAI) -> None:
    short = await client.embeddings.create(model=MODEL, input=[[9906], [9906]], dimensions=64)
    assert [len(each.embedding) for each in short.data] == [64, 64]
    text = await client.embeddings.create(model=MODEL, input="Hello", dimensions=64)
    assert text.data[0].embedding == short.data[0].embedding


@pytest.fixture
async def langchain(address: str) -> AsyncIterator[Callable[..., OpenAIEmbeddings]]:
    """Makes LangChain's model; its connections are closed, which it leaves to a collector."""
    async with DefaultAsyncHttpxClient() as http:

        def made(**settings: Any) -> OpenAIEmbeddings:
            # pydantic's plugin knows only one of the two names of a field that has an alias.
            return OpenAIEmbeddings(  # type: ignore[call-arg]
                base_url=address, api_key="unused", http_async_client=http, **settings
            )

        yield made


@pytest.mark.usefixtures("tokens_of_tiktoken")
async def test_langchain_as_it_is_by_default(
    langchain: Callable[..., OpenAIEmbeddings],
) -> None:
    model = langchain()
    assert model.check_embedding_ctx_length
    with anyio.fail_after(HUNG_S):
        documents = await model.aembed_documents([CAT, SHARES])
        question = await model.aembed_query(KITTEN)
    assert cosine(question, documents[0]) > 0.3 > cosine(question, documents[1])


@pytest.mark.usefixtures("tokens_of_tiktoken")
async def test_langchain_cuts_a_long_text_into_token_arrays(
    langchain: Callable[..., OpenAIEmbeddings],
) -> None:
    long = f"{CAT} {KITTEN} " * 1500
    ids = tiktoken.get_encoding("cl100k_base").encode(long)
    assert len(ids) > 2 * 8191
    model = langchain(model=MODEL)
    with anyio.fail_after(HUNG_S):
        whole, cat = await model.aembed_documents([long, CAT])
    assert cosine(whole, whole) == pytest.approx(1, abs=1e-3)
    assert cosine(whole, cat) > 0.7


async def test_langchain_with_plain_texts(langchain: Callable[..., OpenAIEmbeddings]) -> None:
    model = langchain(check_embedding_ctx_length=False, dimensions=128)
    with anyio.fail_after(HUNG_S):
        vectors = await model.aembed_documents([CAT, SHARES])
    assert [len(each) for each in vectors] == [128, 128]


async def test_the_node_client_asks_for_base64_and_gets_numbers(address: str) -> None:
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(
            ["node", REAL / "openai_embeddings_client.mjs", address], cwd=REAL
        )
    seen = json.loads(done.stdout)
    assert seen.pop("near") > 0.3
    assert seen == {
        "same": True,
        "lengths": [256, 256],
        "usage": {"prompt_tokens": 18, "total_tokens": 18},
        "model": "wordllama",
        "short": [64, 64],
        "error": {"name": "BadRequestError", "status": 400, "param": "input[1]"},
    }
