"""The SMS gateway itself, for development and tests: it answers as OCA would, and sends nothing."""

from oca_sms_async.sandbox._faults import FAULTS
from oca_sms_async.sandbox._inbox import Inbox, Message
from oca_sms_async.sandbox._sandbox import Sandbox

__all__ = ["FAULTS", "Inbox", "Message", "Sandbox"]
