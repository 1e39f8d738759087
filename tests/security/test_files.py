"""Files of a stranger's: names, ids and contents that would reach further than they may."""

from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import pytest
from yarl import URL

from tests.serving import API
from tests.uploads import Files, files_in, form

SECRET = b"a secret of this user's"
HOSTILE = [
    "../../../etc/passwd",
    "/etc/cron.d/x",
    "..\\..\\x.bat",
    'a".html; filename=b',
    "<script>alert(1)</script>.html",
    "a%0d%0aX-Injected: 1",
    "%2e%2e%2fpasswd",
    "\u202elmth.exe",
    "é☃.html",
    "files.sqlite3",
    ".",
    "..",
    "x" * 5000,
]
IDS = [
    "..%2Fsecret",
    "..%2F..%2Fsecret",
    "%2E%2E%2Fsecret",
    "..%5Csecret",
    "%2Fetc%2Fpasswd",
    "files.sqlite3",
    "..%2Ffiles%2Ffiles.sqlite3",
    "%00",
    "file-%00",
    "file-" + "0" * 32 + "%2F..%2Ffiles.sqlite3",
    "file-" + "A" * 32,
    "x" * 3000,
    "'%20OR%20'1'='1",
    "%F0%9F%98%80",
]


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    (tmp_path / "secret").write_bytes(SECRET)
    async with files_in(tmp_path / "files") as made:
        await made.keep(b"somebody's")
        yield made


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("ident", IDS)
async def test_no_id_leads_out_of_the_folder(files: Files, ident: str, tmp_path: Path) -> None:
    url = f"{files.url}{API}/files/{ident}"
    for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", ""), ("DELETE", "/content")):
        address = URL(url + rest, encoded=True)
        async with files.http.request(method, address) as response:
            text = await response.text()
            assert response.status in (400, 404, 405), text
            assert SECRET.decode() not in text
            assert "SQLite" not in text
    assert await anyio.Path(tmp_path / "secret").read_bytes() == SECRET
    assert len(files.kept) == 1


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_name_is_more_than_a_name(files: Files, name: str, tmp_path: Path) -> None:
    ident = await files.keep(b"<script>alert(1)</script>", name)
    assert names_in(tmp_path) == {"secret", "files"}
    told = await files.call("GET", f"/{ident}")
    async with files.http.get(f"{files.url}{API}/files/{ident}/content") as response:
        assert await response.read() == b"<script>alert(1)</script>"
        assert "X-Injected" not in response.headers
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response.headers["Content-Security-Policy"]
        disposition = response.headers["Content-Disposition"]
    assert disposition.isascii()
    parsed = Message()
    parsed["Content-Disposition"] = disposition
    assert parsed.get_content_disposition() == "attachment"
    saved = unquote(disposition.rpartition("filename*=UTF-8''")[2])
    assert saved == told["filename"]
    assert not set(saved) & set("/\\\r\n")
    assert len(saved) <= 255


async def test_a_name_with_a_line_break_breaks_no_header(files: Files) -> None:
    head = (
        b'--x\r\nContent-Disposition: form-data; name="file"; '
        b"filename*=UTF-8''a%0D%0AX-Injected%3A%201\r\n\r\nhi\r\n"
    )
    purpose = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n--x--'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    told = await files.call("POST", data=head + purpose, headers=kind)
    assert told["filename"] == "aX-Injected: 1"
    async with files.http.get(f"{files.url}{API}/files/{told['id']}/content") as response:
        assert (response.status, "X-Injected" in response.headers) == (200, False)


@pytest.mark.parametrize(
    "content",
    [
        b"<!doctype html><script>alert(1)</script>",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"GIF89a/*<script>*/=alert(1)",
        b"%PDF-1.4 <script>",
        b"\x00\x01",
    ],
)
async def test_no_content_is_shown_as_a_page(files: Files, content: bytes) -> None:
    ident = await files.keep(content, "page.html")
    async with files.http.get(f"{files.url}{API}/files/{ident}/content") as response:
        assert response.content_type in (
            "application/octet-stream",
            "application/pdf",
            "image/gif",
        )
        assert response.headers["Content-Disposition"].startswith("attachment;")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


PAGES: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Host": "evil.example"},
]


@pytest.mark.parametrize("page", PAGES)
async def test_no_page_sends_reads_or_removes_a_file(files: Files, page: dict[str, Any]) -> None:
    (kept,) = files.kept
    await files.call("POST", data=form(), headers=page, status=403)
    for method, path in (("GET", ""), ("GET", f"/{kept.name}"), ("DELETE", f"/{kept.name}")):
        await files.call(method, path, headers=page, status=403)
    await files.call("GET", f"/{kept.name}/content", headers=page, status=403)
    assert files.kept == [kept]


async def test_a_link_to_a_file_is_not_followed_from_another_site(files: Files) -> None:
    (kept,) = files.kept
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    await files.call("GET", f"/{kept.name}/content", headers=link, status=403)
