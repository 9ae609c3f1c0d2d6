"""The body of a request, up to a bound: a longer one never fills the memory."""

from typing import Final

from starlette.requests import Request

MOST_BYTES: Final = 2**20  # the longest send has some kilobytes


async def read_body(request: Request) -> bytes | None:
    """Return the body, or `None` for one that is too long. The rest of that one is never kept."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > MOST_BYTES:
            return None  # uvicorn throws away the bytes that still come
        parts.append(part)
    return b"".join(parts)
