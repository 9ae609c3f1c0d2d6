"""The particulars of an API as one value, and the requests and answers that follow from them."""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

from attrs import frozen

from oca_sms_async._errors import ApiError, UnexpectedResponseError, UnsupportedError
from oca_sms_async._models import SendReceipt, SmsRecord
from oca_sms_async._scrub import scrub
from oca_sms_async._wire._api import Request
from oca_sms_async._wire._converter import Converter, Shape, Submission, make_converter
from oca_sms_async._wire._json import read_json, write_json
from oca_sms_async._wire._refusals import refusal

_MAX_UID: Final = 1000
_MAX_HISTORY: Final = 64 * 2**20

_T = TypeVar("_T")


@frozen(eq=False)  # a dialect is one of few constants, and is hashed by its identity
class Dialect:
    """The addresses, codes and fields of one API.

    Paths are below `base_url`; the id follows `status_path`. `history_path` is `None` where there is no history.
    """

    name: str
    base_url: str
    send_path: str
    history_path: str | None
    status_path: str
    codes: Mapping[int, type[ApiError]]
    shapes: tuple[Shape, ...]

    def prepare(self) -> None:
        """Make the converter now. With the first answer it would be too late to fail: the message would be sent."""
        _converter_of(self)

    def send(self, submission: Submission) -> Request[SendReceipt]:
        """Return the request that sends a message."""
        body = write_json(_converter_of(self).unstructure(submission))
        return Request("POST", self.send_path, _parser(self, SendReceipt), body)

    def history(self) -> Request[list[SmsRecord]]:
        """Return the request for the history: all of it, there is no paging."""
        if self.history_path is None:
            raise UnsupportedError(f"{self.name} has no history; SMS Regular has one")
        return Request("GET", self.history_path, _parser(self, list[SmsRecord]), max_body=_MAX_HISTORY)

    def status(self, msg_uid: str) -> Request[SmsRecord]:
        """Return the request for one message's record; `ValueError` for a value that cannot be an id."""
        if not isinstance(msg_uid, str) or not msg_uid.strip() or len(msg_uid) > _MAX_UID:
            raise ValueError(
                f"msg_uid must be a str, not blank, of at most {_MAX_UID} characters, as a receipt gave it"
            )
        segment = quote(msg_uid, safe="", errors="surrogatepass")
        if set(segment) == {"."}:  # «.» and «..» would be taken for steps through the path
            segment = segment.replace(".", "%2E")
        return Request("GET", self.status_path + segment, _parser(self, SmsRecord))

    def _parse(
        self,
        model: type[_T],
        status_code: int,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> _T:
        """Return the model that an answer holds, or raise the gateway's refusal."""
        about_sending = model is SendReceipt
        document, cause = read_json(body)
        errors: Any = document.get("errors") if isinstance(document, dict) else None
        if errors or not 200 <= status_code < 300:
            raise refusal(status_code, headers, body, errors, codes=self.codes, about_sending=about_sending)
        if cause is None:
            try:
                return _converter_of(self).structure(document, model)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                cause = error
        line = f"the gateway's answer (HTTP {status_code}) is not what it documents for this request"
        if body is None and not about_sending:
            line = (
                "the answer is too long (a history may have 64 MiB, any other answer 1 MiB) or cannot be decompressed: "
                "ask for single messages by status(msg_uid)"
            )
        raise UnexpectedResponseError(line) from scrub(cause, sys.exception())


@functools.cache
def _converter_of(dialect: Dialect) -> Converter:
    return make_converter(dialect.shapes)


@functools.cache  # each message takes the same one
def _parser(dialect: Dialect, model: type[_T]) -> Callable[[int, Mapping[str, str], bytes | None], _T]:
    return functools.partial(dialect._parse, model)  # noqa: SLF001 - of this room
