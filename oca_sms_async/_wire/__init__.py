"""The vendor's APIs without I/O: requests out of models, and models or errors out of answers.

No other room of the client knows a path, a field's name, a code, the form of the Authorization header, or the
environment variables of one API. Each API is one room. The rest is shared. An API's rooms are imported
when a value of it is made. `_environment` imports those of all APIs.
"""

from oca_sms_async._wire._api import Api, Request

__all__ = ["Api", "Request"]
