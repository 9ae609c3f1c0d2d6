"""The account that a command works with: out of the environment, or asked for, and never an argument."""

import getpass
import os
import sys
from typing import Any, Final

from oca_sms_async import AsyncOcaSms
from oca_sms_async.cli._console import on_terminal
from oca_sms_async.cli._endings import CommandError, ExitStatus

_USERNAME: Final = "OCA_SMS_USERNAME"
_PASSWORD: Final = "OCA_SMS_PASSWORD"  # noqa: S105 - the variable's name


def client_of_account(**options: Any) -> AsyncOcaSms:
    """Return a client with what the environment says, and these options of its own.

    What the environment lacks is asked for on a terminal; where there is none, that is a `CommandError`.
    """
    environ = dict(os.environ)
    missing = [name for name in (_USERNAME, _PASSWORD) if not environ.get(name)]
    if missing and not on_terminal(sys.stdin):
        line = f"no terminal to ask on, and not set in the environment: {', '.join(missing)}"
        raise CommandError(line, ExitStatus.USAGE)
    try:
        environ.update({name: _asked(name) for name in missing})
        return AsyncOcaSms.from_env(environ, **options)
    except EOFError:
        reason = "no credentials were given"
    except ValueError as error:
        reason = str(error).replace("base_url", "OCA_SMS_BASE_URL").replace("allow_http", "OCA_SMS_ALLOW_HTTP")
    except OSError as error:
        reason = f"the certificates that SSL_CERT_FILE names cannot be read: {error.strerror}"
    raise CommandError(reason, ExitStatus.USAGE)


def _asked(name: str) -> str:
    """Ask on standard error, so that standard output holds only what the command is asked for."""
    if name == _PASSWORD:
        answer = getpass.getpass("OCA password: ", stream=sys.stderr)
    else:
        print("OCA username: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().rstrip("\n")
    if not answer:
        raise EOFError
    return answer
