"""The view: the warehouse reports that an order was shipped, and its customer gets an SMS."""

import secrets
from http import HTTPStatus
from typing import Final

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from oca_sms_async import AsyncOcaSms, InvalidMessageError, OcaSmsError

PATIENCE: Final = 30  # seconds that the warehouse waits for an answer


@csrf_exempt  # the token comes in a header, which no browser adds by itself
@require_POST
async def tell_shipped(request: ASGIRequest, order: int) -> JsonResponse:
    """Send one SMS for an order, however often the warehouse reports it.

    Each call may cost an SMS, so it asks for a token. A view that writes to the database first must send after its
    commit: an SMS cannot be rolled back.
    """
    given = request.headers.get("Authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {settings.WAREHOUSE_TOKEN}".encode()):
        return JsonResponse({"status": "refused"}, status=HTTPStatus.FORBIDDEN)
    client: AsyncOcaSms = request.scope["state"]["sms"]
    text = f"Acme: pesanan {order} sudah dikirim. Terima kasih."
    try:
        receipt = await client.send(
            request.POST.get("phone", ""), text, key=f"order-{order}-shipped", expires_in=PATIENCE
        )
    except InvalidMessageError as error:
        return JsonResponse({"status": "invalid", "reason": str(error)}, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    except OcaSmsError as error:
        if error.may_have_been_sent:  # a repetition would get this answer again, so the warehouse may stop
            return JsonResponse({"status": "unknown"}, status=HTTPStatus.ACCEPTED)
        return JsonResponse({"status": "not-sent"}, status=HTTPStatus.SERVICE_UNAVAILABLE)  # it may come again
    return JsonResponse({"status": "sent", "id": receipt.msg_uid})
