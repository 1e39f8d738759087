"""Says how embeddings can be had where nobody makes any; passes all else on."""

from aiohttp import web

from clinvk.backends.base import Relay
from clinvk.errors import ModelNotFoundError, UnsupportedError
from clinvk.extras import INSTALL_EMBEDDINGS, has_embeddings
from clinvk.server.handlers import SERVICE
from clinvk.server.middleware import Handler

ENDPOINT = "embeddings"


class Advised:
    """Answers `POST /embeddings` as another handler does, with a word more where nobody can."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer the request."""
        try:
            return await self._handler(request)
        except (ModelNotFoundError, UnsupportedError) as exc:
            backends = request.app[SERVICE].registry.backends.values()
            if any(isinstance(each, Relay) and ENDPOINT in each.endpoints for each in backends):
                raise
            how = "add one to backends.yaml" if has_embeddings() else INSTALL_EMBEDDINGS
            told = f"{exc}; a backend of kind embeddings makes embeddings offline: {how}"
            raise type(exc)(told, param=exc.param) from None
