"""`python -m oca_sms_async.cli` is `oca-sms`, also where its script is not on the PATH."""

from oca_sms_async.cli import main

main()
