"""The environment variables that say which API an account has, and with which credentials."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from oca_sms_async._settings import Lookup
from oca_sms_async._wire._api import Api
from oca_sms_async._wire._premium_v1 import PremiumV1
from oca_sms_async._wire._premium_v2 import PremiumV2
from oca_sms_async._wire._regular_v1 import RegularV1
from oca_sms_async._wire._regular_v2 import RegularV2


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


@frozen
class _Choice:
    """An API that the environment can name: its constructor, and the variables that it needs."""

    name: str
    make: Callable[..., Api]
    needed: tuple[Variable, ...]


_USERNAME: Final = Variable("OCA_SMS_USERNAME", "username", "OCA username")
_PASSWORD: Final = Variable("OCA_SMS_PASSWORD", "password", "OCA password", secret=True)
_TOKEN: Final = Variable("OCA_SMS_TOKEN", "token", "OCA token", secret=True)
_SENDER_ID: Final = Variable("OCA_SMS_SENDER_ID", "sender_id", "OCA sender ID")
_VARIABLES: Final = (_USERNAME, _PASSWORD, _TOKEN, _SENDER_ID)

_CHOICE: Final = "OCA_SMS_API"
_DEFAULT: Final = _Choice("regular-v1", RegularV1, (_USERNAME, _PASSWORD))
_CHOICES: Final = (
    _DEFAULT,
    _Choice("regular-v2", RegularV2, (_TOKEN,)),
    _Choice("premium-v1", PremiumV1, (_USERNAME, _PASSWORD, _SENDER_ID)),
    _Choice("premium-v2", PremiumV2, (_TOKEN, _SENDER_ID)),
)


def needed_variables(environ: Lookup) -> tuple[Variable, ...]:
    """Return the variables of the API that the environment names, in the order in which to ask for them.

    `ValueError` names a variable that contradicts it.
    """
    choice = _choose(environ)
    if contradictions := "; ".join(_contradictions(choice, environ, {})):
        raise ValueError(contradictions)
    return choice.needed


def api_from_env(environ: Lookup, given: Mapping[str, Any] | None = None) -> Api:
    """Return the API that the environment names, with its credentials.

    `ValueError` names each variable that is missing or contradicts the choice. Arguments that are `given` win over
    their variables. `TypeError` names an argument of no API.
    """
    given = given or {}
    if unknown := sorted(given.keys() - {it.argument for it in _VARIABLES}):
        raise TypeError(f"no such option: {unknown[0]}")
    choice = _choose(environ)
    wrong = [*_contradictions(choice, environ, given)]
    wrong += [
        f"{it.name} is not set in the environment"
        for it in choice.needed
        if it.argument not in given and not environ.get(it.name)
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    # No name is bound to these values: an error tracker shows the local variables of a frame.
    return choice.make(**{**{it.argument: environ.get(it.name) for it in choice.needed}, **given})


def _choose(environ: Lookup) -> _Choice:
    word = environ.get(_CHOICE)
    if not word:
        return _DEFAULT
    for choice in _CHOICES:
        if choice.name == word.strip().lower():
            return choice
    raise ValueError(f"{_CHOICE} must be one of {', '.join(choice.name for choice in _CHOICES)}")


def _contradictions(choice: _Choice, environ: Lookup, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each variable that is set and belongs to other APIs than the one chosen.

    With a sender that is ignored, or with an account other than the one meant, messages would go out all the same.
    """
    for it in _VARIABLES:
        if it not in choice.needed and (it.argument in given or environ.get(it.name)):
            takers = " or ".join(other.name for other in _CHOICES if it in other.needed)
            name = it.argument if it.argument in given else it.name
            said = f"{_CHOICE} is {choice.name}" if environ.get(_CHOICE) else f"{_CHOICE} is not set"
            yield f"{name} is for {takers}, but {said}"
