"""One file on its way into the store: nothing of it stays unless it is finished.

Owns what becomes of it when its sender goes away. A cancelled caller leaves its thread behind, so
what threads do to one upload waits for each other.
"""

import logging
import os
import threading
from contextlib import suppress
from functools import partial
from io import FileIO
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from clinvk.database import StoreError
from clinvk.errors import StorageFullError
from clinvk.filestore import FileStore, StoredFile

_log = logging.getLogger(__name__)


class Upload:
    """A file of `owner`, an async context manager; left without `finish` it was never there."""

    def __init__(self, store: FileStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._lock = threading.Lock()
        self._left = False
        self._id = ""
        self._content: FileIO | None = None
        self._reserved = 0
        self._written = 0

    async def __aenter__(self) -> Self:
        """Make the file.

        Raises:
            StorageQuotaError: if there are as many files as there may be.
            StorageFullError: if the disk is full.
            StoreError: if the store cannot be written.
        """
        try:
            await anyio.to_thread.run_sync(self._begin)
        except BaseException:
            await self._left_behind(well=False)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the file unless it is finished and all is well."""
        await self._left_behind(well=kind is None)

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            StorageQuotaError: if all files together would be too large.
            StorageFullError: if the disk is full.
            StoreError: if they cannot be written.
        """
        await anyio.to_thread.run_sync(self._write, data)

    async def finish(
        self, *, filename: str, purpose: str, expires_s: int | None = None
    ) -> StoredFile:
        """Have the file be there, and return what is known of it.

        Args:
            filename: what the caller calls it.
            purpose: what the caller says that it is for.
            expires_s: after how many seconds it goes; None is as late as may be.

        Raises:
            StorageFullError: if the disk is full.
            StoreError: if it cannot be kept.
        """
        kept: list[StoredFile] = []

        def finish() -> None:
            with self._lock, self._store.faults_told():
                if self._content is None:
                    return
                os.fsync(self._content.fileno())  # a row must never outlive a crash without it
                kept.append(
                    self._store.finish(
                        self._id,
                        size=self._written,
                        filename=filename,
                        purpose=purpose,
                        expires_s=expires_s,
                    )
                )
                self._content.close()
                self._content = None

        await anyio.to_thread.run_sync(finish)
        return kept[0]

    async def _left_behind(self, *, well: bool) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(self._leave, well=well))

    def _begin(self) -> None:
        with self._lock:
            if not self._left:
                self._id, self._content = self._store.begin(self._owner)

    def _write(self, data: bytes) -> None:
        with self._lock, self._store.faults_told():
            if self._content is None:
                return
            need = self._written + len(data) - self._reserved
            if need > 0:
                self._reserved += self._store.reserve(self._id, need)
            left = memoryview(data)
            while left:
                left = left[self._content.write(left) :]
            self._written += len(data)

    def _leave(self, *, well: bool) -> None:
        with self._lock:
            self._left = True
            content, self._content = self._content, None
            if content is not None:
                with suppress(OSError):
                    content.close()  # first, or a disk that is full stays so
            if self._id and not (well and content is None):
                try:
                    self._store.drop(self._id)
                except (StoreError, StorageFullError) as exc:  # the next upload removes it
                    _log.warning("an upload that broke off is not removed yet: %s", exc)
