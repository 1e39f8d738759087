"""Forms with files that were cut, mixed and miswritten: kept whole, or refused and forgotten."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.budget import budget
from tests.fuzz.serving import served

CONTENT = b"a --x content\r\n--y\r\n-x\r\n" * 3
PURPOSE = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
WHOLE = PURPOSE + FILE + CONTENT + b"\r\n--x--\r\n"
SCRAPS = [
    *(b"\r\n", b"--x", b"--x--", b"\r\n\r\n", b'"', b";", b"=", b"\x00", b"\xff", b"name=", b"*="),
    *(PURPOSE, FILE, b"Content-Type: multipart/mixed; boundary=y\r\n", b"Content-Length: 3\r\n"),
    *(b"Content-Transfer-Encoding: base64\r\n", b"Content-Encoding: gzip\r\n", b'name="_charset_"'),
]
KINDS = ["multipart/form-data; boundary=x"] * 8 + [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary="x"; charset=utf-16',
    "multipart/form-data; boundary=" + "y" * 80,
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    body = WHOLE
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.sampled_from([0, 0, 1, 2, 8, 500])))
        body = body[:start] + draw(st.sampled_from([b"", *SCRAPS])) + body[end:]
    return body


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with served() as url, httpx.Client(base_url=f"{url}/v1", timeout=20) as client:
        yield client


def listed(http: httpx.Client) -> list[Any]:
    found: list[Any] = http.get("/files").json()["data"]
    return found


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam")
def test_a_form_is_kept_whole_or_refused_and_forgotten(http: httpx.Client) -> None:
    seen: set[int] = set()

    @budget(150)
    @given(body=bodies(), kind=st.sampled_from(KINDS))
    def holds(body: bytes, kind: str) -> None:
        reply = http.post("/files", content=body, headers={"Content-Type": kind})
        seen.add(reply.status_code)
        if reply.status_code != 200:
            assert reply.status_code == 400, (body, reply.text)
            assert reply.json()["error"]["message"]
            assert listed(http) == []
            return
        made = reply.json()
        assert listed(http) == [made]
        read = http.get(f"/files/{made['id']}/content").content
        assert len(read) == made["bytes"]
        assert read in body
        assert http.delete(f"/files/{made['id']}").status_code == 200

    holds()
    assert seen == {200, 400}
