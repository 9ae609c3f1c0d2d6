"""The vendor's APIs without I/O: requests out of models, and models or errors out of answers.

No other room of the client knows a path, a field's name, a code, the form of the Authorization header, or the
environment variables of one API. Each API is one room. The rest is shared. `_environment` imports the rooms of all
APIs, so it is imported only when a client is made from the environment.
"""

from oca_sms_async._wire._api import Api, Request
from oca_sms_async._wire._regular_v1 import RegularV1

__all__ = ["Api", "RegularV1", "Request"]
