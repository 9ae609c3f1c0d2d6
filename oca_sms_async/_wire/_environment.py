"""The environment variables that say which API an account has, and with which credentials."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen

from oca_sms_async._settings import Lookup
from oca_sms_async._wire._api import Api
from oca_sms_async._wire._regular_v1 import RegularV1


@frozen
class Variable:
    """A variable that an API needs.

    `argument` is the parameter that it stands for, `prompt` the words that ask a person for it. A value that is
    `secret` must not be shown while it is typed.
    """

    name: str
    argument: str
    prompt: str
    secret: bool = False


_USERNAME: Final = Variable("OCA_SMS_USERNAME", "username", "OCA username")
_PASSWORD: Final = Variable("OCA_SMS_PASSWORD", "password", "OCA password", secret=True)


@frozen
class _Choice:
    """An API that the environment can name: its constructor, and the variables that it needs."""

    make: Callable[..., Api]
    variables: tuple[Variable, ...]


_CHOICES: Final = {"regular-v1": _Choice(RegularV1, (_USERNAME, _PASSWORD))}
_DEFAULT: Final = "regular-v1"


def needed_variables(environ: Lookup) -> tuple[Variable, ...]:
    """Return the variables of the API that the environment names, in the order in which to ask for them."""
    return _choice(environ).variables


def api_from_env(environ: Lookup, given: Mapping[str, Any] | None = None) -> Api:
    """Return the API that the environment names, with its credentials; `ValueError` names a missing variable.

    Arguments that are `given` win over their variables. `TypeError` names one that the API does not take.
    """
    choice, given = _choice(environ), given or {}
    surplus = sorted(given.keys() - {variable.argument for variable in choice.variables})
    if surplus:
        raise TypeError(f"no such option: {surplus[0]}")
    for variable in choice.variables:
        if variable.argument not in given and not environ.get(variable.name):
            raise ValueError(f"{variable.name} is not set in the environment")
    # No name is bound to these values: an error tracker shows the local variables of a frame.
    return choice.make(**{**{it.argument: environ.get(it.name) for it in choice.variables}, **given})


def _choice(_: Lookup) -> _Choice:
    return _CHOICES[_DEFAULT]
