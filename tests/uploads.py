"""Forms with files, and a server that keeps them in a folder of the test's."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from clinvk.config import Config
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving

PDF = b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF"


def form(
    content: bytes | io.IOBase | None = b"hi", name: str | None = "a.txt", /, **fields: str
) -> aiohttp.FormData:
    """A form as clients send it."""
    made = aiohttp.FormData(
        {"purpose": "user_data", **fields}, default_to_multipart=True, quote_fields=False
    )
    if content is not None:
        made.add_field(
            "file", io.BytesIO(content) if isinstance(content, bytes) else content, filename=name
        )
    return made


@dataclass
class Files:
    """A server, and the folder that it keeps files in."""

    url: str
    http: aiohttp.ClientSession
    folder: Path
    backend: ScriptBackend

    async def call(
        self, method: str, path: str = "", *, status: int = 200, **options: Any
    ) -> dict[str, Any]:
        """Ask for something of `/files`."""
        url = f"{self.url}{API}/files{path}"
        async with self.http.request(method, url, **options) as response:
            told: dict[str, Any] = await response.json()
            assert response.status == status, told
            return told

    async def keep(
        self, content: bytes = b"hi", name: str = "a.txt", headers: Any = None, **fields: str
    ) -> str:
        """Upload a file and return its id."""
        told = await self.call("POST", data=form(content, name, **fields), headers=headers)
        return str(told["id"])

    @property
    def kept(self) -> list[Path]:
        """The contents in the folder."""
        return sorted(self.folder.glob("file-*"))


def with_folder(config: Config, folder: Path, **server: Any) -> Config:
    """The same configuration with files in a folder, and `files` and others of its settings."""
    files = {"path": str(folder), **server.pop("files", {})}
    told = config.server.model_dump() | {"store": {"path": ":memory:"}, "files": files, **server}
    return config.model_copy(update={"server": type(config.server).model_validate(told)})


@asynccontextmanager
async def files_in(
    folder: Path,
    config: Config | None = None,
    backend: ScriptBackend | None = None,
    **server: Any,
) -> AsyncIterator[Files]:
    """Serve a scripted backend."""
    backend = backend or ScriptBackend()
    made = with_folder(config or script_config(), folder, **server)
    app = create_app(made, build=builder(backend))
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Files(url, http, folder, backend)
