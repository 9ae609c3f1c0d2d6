"""The JSON of the sandbox's own paths: messages, refused requests, counts, and all that a client needs to connect."""

import shlex
from collections.abc import Collection
from typing import Any

from oca_sms_async._phone import mask_phone
from oca_sms_async._segments import segments
from oca_sms_async._settings import is_loopback
from oca_sms_async.sandbox._answers import write_timestamp
from oca_sms_async.sandbox._api import Api
from oca_sms_async.sandbox._faults import FAULTS, find_fault
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._listing import Listing
from oca_sms_async.sandbox._traffic import Refused


def describe(message: Message) -> dict[str, Any]:
    """Return all fields of a message."""
    return {
        "msg_uid": message.msg_uid,
        "created_at": write_timestamp(message.created_at),
        "api": message.api,
        "sender_id": message.sender_id,
        "phone": message.phone,
        "text": message.text,
        "code": message.code,
        "segments": message.segments,
        "encoding": segments(message.text).encoding,
        "status": message.status,
        "attempts": message.attempts,
        "faults": list(message.faults),
    }


def describe_refused(refused: Refused) -> dict[str, Any]:
    """Return all fields of a refused request, with the number masked."""
    return {
        "number": refused.number,
        "created_at": write_timestamp(refused.created_at),
        "api": refused.api,
        "operation": refused.operation,
        "phone": mask_phone(refused.phone),
        "kind": refused.kind,
        "reason": refused.reason,
        "status": refused.status,
        "code": refused.code,
    }


def describe_listing(listing: Listing) -> dict[str, Any]:
    """Return the entries of a page, each with its `outcome`, and `newest`: the exact time of the first one."""
    return {
        "entries": [
            {"outcome": "accepted", **describe(entry)}
            if isinstance(entry, Message)
            else {"outcome": "refused", **describe_refused(entry)}
            for entry in listing.entries
        ],
        "newest": listing.entries[0].created_at.isoformat() if listing.entries else None,
        "total": listing.total,
        "newer": listing.newer,
    }


def describe_counts(gateway: Gateway) -> dict[str, Any]:
    """Return the counts of requests and the limits."""
    return {
        "accepted": len(gateway.inbox),
        "refused": dict(gateway.traffic.refusals),
        "last_second": gateway.traffic.last_second,
        "rate_limit": gateway.rate_limit,
        "quota": gateway.quota,
    }


def describe_access(gateway: Gateway, apis: Collection[Api], origin: str, host: str) -> dict[str, Any]:
    """Return the base URL of each API, the variables that a client needs, and the same as lines for a shell.

    The first line removes the variables of other APIs: with one of them, a client refuses the account.
    """
    described, known = [], {name: None for api in apis for name in api.variables(gateway)}
    for api in apis:
        url = origin + api.prefix
        variables = api.variables(gateway) | {"OCA_SMS_BASE_URL": url}
        if not is_loopback(host):
            variables["OCA_SMS_ALLOW_HTTP"] = "1"
        lines = [" ".join(["unset", *(name for name in known if name not in variables)])]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        described.append({"name": api.name, "title": api.title, "url": url, "variables": variables, "lines": lines})
    return {"apis": described, "faults": {kind: find_fault(kind).sentence for kind in FAULTS}}
