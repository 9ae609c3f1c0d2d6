"""The queue that a command works with: its database out of the environment, and never an argument."""

import os
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter

from oca_sms_async.cli._endings import CommandError, ExitStatus

if TYPE_CHECKING:
    from oca_sms_async.queue import SmsQueue

Queue: TypeAlias = "SmsQueue"
QueueName = Annotated[str, Parameter(help="The queue's name: a database may hold several.")]

_VARIABLE: Final = "OCA_SMS_DATABASE"


def open_queue(name: str) -> Queue:
    """Return the queue of the environment's database. Without the variable, libpq's own ones count."""
    try:
        from oca_sms_async.queue import SmsQueue  # noqa: PLC0415 - an extra, which the other commands do without
    except ImportError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    try:
        return SmsQueue(os.environ.get(_VARIABLE, ""), name=name)
    except ValueError as error:
        raise CommandError(str(error).replace("conninfo", _VARIABLE), ExitStatus.USAGE) from error
