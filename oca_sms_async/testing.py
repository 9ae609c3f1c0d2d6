"""Fixtures for tests of programs that send SMS: a pytest plugin. pytest finds it where this package is installed.

`oca_sms_sandbox` is a gateway, `oca_sms_client` a client of it. They are the same for plain tests, pytest-asyncio and
anyio's plugin. They need `pip install "oca-sms-async[sandbox]"`. `pytest -p no:oca_sms_async` turns them off. A run
whose tests ask for neither imports nothing of the package.
"""

from oca_sms_async_pytest import (
    _oca_sms_portal,  # noqa: F401 - pytest finds it by its name if this module is loaded as the plugin
    oca_sms_client,
    oca_sms_sandbox,
)

__all__ = ["oca_sms_client", "oca_sms_sandbox"]
