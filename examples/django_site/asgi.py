"""The site as an ASGI application: `uvicorn django_site.asgi:application`.

Django has no hook for the start and the end of a process. The server has one, the lifespan, and this module uses it to
open one client for the process. Views find it in `request.scope["state"]`.

This needs an ASGI server. Under WSGI Django runs each asynchronous view in an event loop of its own, which one client
cannot outlive.
"""

import contextlib
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application
from oca_sms_async import AsyncOcaSms
from oca_sms_async.postgres import PostgresJournal, PostgresTokenBucket

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

django: Final = get_asgi_application()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Let Django answer, and open the client before the first request and close it after the last one."""
    if scope["type"] != "lifespan":
        await django(scope, receive, send)  # type: ignore[arg-type] # django-stubs knows no lifespan
        return
    await receive()  # the start; an exception from here on ends the server with its traceback
    async with (
        PostgresJournal(settings.SMS_DATABASE, name="shop") as journal,
        contextlib.aclosing(PostgresTokenBucket(settings.SMS_DATABASE, name="oca")) as limiter,
        AsyncOcaSms.from_env(journal=journal, limiter=limiter) as client,
    ):
        scope["state"]["sms"] = client
        await send({"type": "lifespan.startup.complete"})
        await receive()  # the end: all requests have been answered
    await send({"type": "lifespan.shutdown.complete"})
