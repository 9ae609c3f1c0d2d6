"""The vendor's APIs without I/O: requests out of models, and models or errors out of answers.

No other room of the client knows a path, a field's name, a code, the form of the Authorization header, or the
environment variables of one API. Each API is one room. The rest is shared.
"""

from oca_sms_async._wire._api import Api, Request
from oca_sms_async._wire._environment import Variable, api_from_env, needed_variables
from oca_sms_async._wire._premium_v1 import PremiumV1
from oca_sms_async._wire._premium_v2 import PremiumV2
from oca_sms_async._wire._regular_v1 import RegularV1
from oca_sms_async._wire._regular_v2 import RegularV2

__all__ = [
    "Api",
    "PremiumV1",
    "PremiumV2",
    "RegularV1",
    "RegularV2",
    "Request",
    "Variable",
    "api_from_env",
    "needed_variables",
]
