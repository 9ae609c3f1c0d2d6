"""The account that a command works with: out of the environment, or asked for, and never an argument."""

import getpass
import os
import sys
import warnings
from typing import Unpack

from oca_sms_async import AsyncOcaSms
from oca_sms_async._options import ClientOptions
from oca_sms_async._settings import ENVIRONMENT, Environment
from oca_sms_async._wire._environment import Variable, needed_variables
from oca_sms_async.cli._console import complain, on_terminal
from oca_sms_async.cli._endings import CommandError, ExitStatus


def client_of_account(**options: Unpack[ClientOptions]) -> AsyncOcaSms:
    """Return a client with the account of the environment, and with these options.

    Variables that are missing are asked for on a terminal. Without a terminal, that is a `CommandError`.
    """
    try:
        variables = Environment(ENVIRONMENT)
        missing = [variable for variable in needed_variables(variables) if not variables.get(variable.name)]
        if missing and not on_terminal(sys.stdin):
            names = ", ".join(variable.name for variable in missing)
            reason = f"no terminal to ask on, and not set in the environment: {names}"
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                # No name is bound to the answers: an error tracker shows the local variables of a frame.
                client = AsyncOcaSms.from_env({**os.environ, **{it.name: _ask(it) for it in missing}}, **options)
            for warning in caught:
                complain(f"warning: {warning.message}")
            return client
    except EOFError:
        reason = "no credentials were given"
    except ValueError as error:
        reason = str(error).replace("base_url", "OCA_SMS_BASE_URL").replace("allow_http", "OCA_SMS_ALLOW_HTTP")
    except OSError as error:
        reason = str(error.strerror)
    raise CommandError(reason, ExitStatus.USAGE)


def _ask(variable: Variable) -> str:
    """Ask on standard error, so that standard output holds only the result of the command."""
    if variable.secret:
        answer = getpass.getpass(f"{variable.prompt}: ", stream=sys.stderr)
    else:
        print(f"{variable.prompt}: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().rstrip("\n")
    if not answer:
        raise EOFError
    return answer
