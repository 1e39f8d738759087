"""The embedded model, as a backend."""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from safetensors.numpy import save_file

from clinvk import tokens
from clinvk.backends import embedding_model
from clinvk.backends.base import Passed, State
from clinvk.backends.embeddings import MAX_CHARACTERS, MAX_TOKENS, EmbeddingsBackend, Input
from clinvk.config import EmbeddingsConfig
from clinvk.errors import (
    BadRequestError,
    ContextTooLongError,
    ModelNotFoundError,
    NotInstalledError,
    UnsupportedError,
)
from clinvk.turn import Message, Role, TextPart, Turn

HUNG_S = 60
CHAT = Turn("embeddings", (Message(Role.USER, (TextPart("hi"),)),))

PAIRS = [
    ("How do I reset my password?", "I forgot my login and need to set a new passphrase."),
    ("The cat sat on the windowsill.", "A kitten was resting by the window."),
    ("Shares fell after the earnings report.", "The stock price dropped on quarterly results."),
    ("Boil the pasta for ten minutes.", "Cook spaghetti in boiling water until it is done."),
    ("Global warming is melting the polar ice.", "Climate change makes Arctic glaciers shrink."),
    ("The film received excellent reviews.", "Critics praised the movie."),
    ("How can I speed up my database query?", "Ways to make SQL selects run faster."),
    ("Vaccines protect against disease.", "Immunization prevents illness."),
]


@pytest.fixture
def backend() -> EmbeddingsBackend:
    return EmbeddingsBackend("embeddings", EmbeddingsConfig(kind="embeddings"))


def floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def vectors(
    backend: EmbeddingsBackend, *texts: str, dimensions: int | None = None
) -> list[tuple[float, ...]]:
    inputs = [Input(f"input[{at}]", text) for at, text in enumerate(texts)]
    made, _ = await backend.embed(inputs, dimensions, lambda _, vector: floats(vector))
    return made


async def asked(backend: EmbeddingsBackend, **fields: Any) -> tuple[dict[str, Any], dict[str, str]]:
    body = json.dumps({"model": "wordllama", "input": "hi", **fields}).encode()
    async with backend.send(Passed("embeddings", {}, body)) as reply:
        assert reply.status == 200
        told = b"".join([piece async for piece in reply.body])
        headers = dict(reply.headers)
        assert headers["Content-Length"] == str(len(told))
        return json.loads(told), headers


async def test_a_paraphrase_is_nearer_than_all_that_is_about_something_else(
    backend: EmbeddingsBackend,
) -> None:
    first = await vectors(backend, *(one for one, _ in PAIRS))
    second = await vectors(backend, *(other for _, other in PAIRS))
    for at, vector in enumerate(first):
        near = [cosine(vector, other) for other in second]
        assert near.index(max(near)) == at, PAIRS[at]


@pytest.mark.parametrize("dimensions", [None, 256, 128, 64])
async def test_vectors_have_length_one_and_as_many_dimensions_as_are_asked_for(
    dimensions: int | None, backend: EmbeddingsBackend
) -> None:
    texts = ("short", "a longer text, with more words in it", "漢字", "\x00", " ")
    for vector in await vectors(backend, *texts, dimensions=dimensions):
        assert len(vector) == (dimensions or 256)
        assert cosine(vector, vector) == pytest.approx(1, abs=1e-5)


async def test_fewer_dimensions_are_the_first_ones_brought_to_length_one(
    backend: EmbeddingsBackend,
) -> None:
    (whole,) = await vectors(backend, "some text")
    (part,) = await vectors(backend, "some text", dimensions=64)
    length = cosine(whole[:64], whole[:64]) ** 0.5
    assert part == pytest.approx([each / length for each in whole[:64]], abs=1e-6)


async def test_no_tokens_are_zeros_and_never_nan() -> None:
    model = await anyio.to_thread.run_sync(embedding_model.load)
    assert floats(model.embed([]).vector) == (0.0,) * 256


# Its loader of this version wants to download the tokenizer that lies beside it.
OWN = """
import json, pathlib, sys, types
import numpy, wordllama
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from wordllama.inference import WordLlamaInference
folder = pathlib.Path(wordllama.__file__).parent
vectors = load_file(folder / "weights/l2_supercat_256.safetensors")["embedding.weight"]
tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
config = types.SimpleNamespace(tokenizer=types.SimpleNamespace(model_dump=dict))
model = WordLlamaInference(vectors.astype(numpy.float32), config, tokenizer)
json.dump(model.embed(json.load(sys.stdin), norm=True).tolist(), sys.stdout)
"""


def test_vectors_are_those_of_the_packages_own_code() -> None:
    texts = [
        "hello world",
        "The quick brown fox.",
        "def f(x): return x",
        "漢字 and émigré",
        "a</s>b",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWN],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=True,
    )
    model = embedding_model.load()
    for ids, theirs in zip(model.tokens(texts), json.loads(done.stdout), strict=True):
        assert floats(model.embed(ids).vector) == pytest.approx(theirs, abs=1e-5)


async def test_tokens_of_clients_are_their_text(backend: EmbeddingsBackend) -> None:
    text = "Héllo, wörld 😀"
    ids = [39, 19010, 385, 11, 289, 9603, 509, 91416]
    assert tokens.decode(ids) == text
    told, _ = await asked(backend, input=[ids, ids[:1]])
    same, _ = await asked(backend, input=[text, "H"])
    assert told == same


@pytest.mark.parametrize("bad", [100_256, -1, 2**70])
@pytest.mark.parametrize(("sent", "name"), [("one", "input"), ("many", "input[1]")])
async def test_what_is_no_token_is_named(
    bad: int, sent: str, name: str, backend: EmbeddingsBackend
) -> None:
    with pytest.raises(BadRequestError, match=f"{bad} is no token of cl100k_base") as caught:
        await asked(backend, input=[9906, bad] if sent == "one" else [[9906], [bad]])
    assert caught.value.param == name


async def test_tokens_that_end_within_a_character_are_taken(backend: EmbeddingsBackend) -> None:
    told, _ = await asked(backend, input=[[76460], [222]])
    for each in told["data"]:
        assert cosine(each["embedding"], each["embedding"]) == pytest.approx(1, abs=1e-5)


async def test_a_request_is_answered_with_usage_and_what_was_ignored(
    backend: EmbeddingsBackend,
) -> None:
    told, headers = await asked(backend, input=["hello world", "hi"], user="u", instruct="x")
    assert told["model"] == "wordllama"
    assert [each["index"] for each in told["data"]] == [0, 1]
    assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert headers["x-clinvk-ignored"] == "user, instruct"
    assert "x-clinvk-ignored" not in (await asked(backend))[1]


async def test_many_inputs_keep_their_order(backend: EmbeddingsBackend) -> None:
    texts = [f"word number {at}" + " more" * (at % 7) for at in range(200)]
    alone = [(await vectors(backend, text))[0] for text in texts[:3] + texts[-3:]]
    together = await vectors(backend, *texts)
    assert together[:3] + together[-3:] == alone


@pytest.mark.parametrize(
    "value",
    ["é" * (MAX_CHARACTERS + 1), "😀" * (MAX_TOKENS // 4 + 1), [9906] * (MAX_TOKENS + 1)],
    ids=["characters", "tokens", "array"],
)
async def test_what_is_too_long_is_named(value: Any, backend: EmbeddingsBackend) -> None:
    inputs = [Input("input[0]", "fine"), Input("input[1]", value)]
    with pytest.raises(ContextTooLongError, match=r"over the limit of 65536 tokens") as caught:
        await backend.embed(inputs, None, lambda _, vector: vector)
    assert caught.value.param == "input[1]"


async def test_the_longest_text_is_taken(backend: EmbeddingsBackend) -> None:
    inputs = [Input("input", "a " * 60_000)]
    (vector,), count = await backend.embed(inputs, None, lambda _, vector: floats(vector))
    assert 60_000 <= count <= MAX_TOKENS
    assert cosine(vector, vector) == pytest.approx(1, abs=1e-4)


async def test_more_dimensions_than_there_are_is_a_mistake(backend: EmbeddingsBackend) -> None:
    with pytest.raises(BadRequestError, match="the model has 256") as caught:
        await asked(backend, dimensions=257)
    assert caught.value.param == "dimensions"


async def test_who_leaves_ends_the_work_with_the_piece(backend: EmbeddingsBackend) -> None:
    begun, go_on = anyio.Event(), threading.Event()
    numbers: list[int] = []

    def told(number: int, _: bytes) -> None:
        if not numbers:
            anyio.from_thread.run_sync(begun.set)
            go_on.wait(HUNG_S)
        numbers.append(number)

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            inputs = [Input(f"input[{at}]", "a text") for at in range(2000)]
            group.start_soon(backend.embed, inputs, None, told)
            await begun.wait()
            group.cancel_scope.cancel()
            go_on.set()
    assert numbers == list(range(64))


async def test_it_answers_no_turn(backend: EmbeddingsBackend) -> None:
    with pytest.raises(UnsupportedError, match="makes embeddings and answers nothing"):
        backend.check(CHAT)
    with pytest.raises(UnsupportedError, match="makes embeddings and answers nothing"):
        backend.open(CHAT, None)
    await backend.warm()
    backend.close()


async def test_there_is_one_model(backend: EmbeddingsBackend) -> None:
    await backend.refresh()
    assert [backend.require_model(each) for each in (None, "wordllama")] == ["wordllama"] * 2
    assert list(backend.models) == ["wordllama"]
    with pytest.raises(ModelNotFoundError, match="has no model 'other'"):
        backend.require_model("other")


async def test_without_the_extra_it_says_how_to_get_it(
    backend: EmbeddingsBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await backend.health()
    assert (found.state, found.version) == (State.READY, embedding_model.model_version())
    monkeypatch.setitem(sys.modules, "wordllama", None)
    assert not backend.installed
    found = await backend.health()
    assert (found.state, found.fix) == (State.MISSING, "pip install 'clinvk[embeddings]'")
    with pytest.raises(NotInstalledError, match=r"pip install 'clinvk\[embeddings\]'"):
        await asked(backend)


def test_a_model_without_metadata_has_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert embedding_model.model_version() is None


async def test_a_body_comes_whole(backend: EmbeddingsBackend) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    with pytest.raises(TypeError, match="comes whole"):
        async with backend.send(Passed("embeddings", {}, pieces())):
            pass


BROKEN = """
import sys
sys.path.insert(0, {folder!r})
if {missing}:
    sys.modules["wordllama"] = None
from clinvk.backends import embedding_model
from clinvk.errors import UnavailableError
try:
    embedding_model.load()
except UnavailableError as exc:
    print(exc)
"""


@pytest.mark.parametrize("broken", ["missing", "gone", "nothing", "other shape"])
def test_a_package_that_is_broken_is_told(broken: str, tmp_path: Path) -> None:
    package = tmp_path / "wordllama"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if broken not in ("missing", "gone"):
        for name in ("weights", "tokenizers"):
            (package / name).mkdir()
        vectors = np.zeros((2, 256 if broken == "nothing" else 8), np.float16)
        save_file({"embedding.weight": vectors}, package / "weights/l2_supercat_256.safetensors")
        model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
        text = "" if broken == "nothing" else json.dumps({"version": "1.0", "model": model})
        (package / "tokenizers/l2_supercat_tokenizer_config.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(folder=str(tmp_path), missing=broken == "missing")],
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=True,
        env={**os.environ},
    )
    words = {"other shape": "has another shape: (2, 8)"}.get(broken, "cannot be read")
    assert done.stdout.startswith("the embedding model ")
    assert words in done.stdout
