"""The command line `oca-sms`: try the library, send one message, look messages up, practise on a sandbox."""

from oca_sms_async.cli._main import main

__all__ = ["main"]
