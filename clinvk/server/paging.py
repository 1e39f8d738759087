"""How much of a list a caller asks for, and in which order."""

from aiohttp import web

from clinvk.errors import BadRequestError


def limit_of(request: web.Request, *, default: int, most: int) -> int:
    """Return how many a caller asks for.

    Raises:
        BadRequestError: if it is no number of those that may be asked for.
    """
    text = request.query.get("limit", str(default))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= limit <= most:
        raise BadRequestError(f"'limit' must be from 1 to {most}", param="limit")
    return limit


def newest_first(request: web.Request) -> bool:
    """Return whether a caller asks for the newest first, as it does unless it says otherwise.

    Raises:
        BadRequestError: if it asks for neither order.
    """
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequestError("'order' must be 'asc' or 'desc'", param="order")
    return order == "desc"
