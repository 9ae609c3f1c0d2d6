"""A program that `nox -s bundle` makes one file of: it sends to a sandbox, and looks at the sandbox's page."""

import asyncio

import httpx

from oca_sms_async import AsyncOcaSms
from oca_sms_async.sandbox import Sandbox


async def main() -> None:
    """Send one message, and read each file of the page."""
    async with Sandbox().serve() as sandbox, httpx.AsyncClient() as browser:
        async with AsyncOcaSms(sandbox.username, sandbox.password, base_url=sandbox.base_url) as sms:
            await sms.send("0813-8147-5159", "Acme: 482913 is your code")
        assert sandbox.inbox.code("0813-8147-5159") == "482913"
        for name in ("", "inbox.css", "inbox.js", "access.js", "faults.js", "list.js"):
            answer = await browser.get(httpx.URL(sandbox.base_url).join(f"/{name}"))
            answer.raise_for_status()
            assert len(answer.content) > 100


if __name__ == "__main__":
    asyncio.run(main())
