"""`python -m oca_sms_async.cli` is `oca-sms`, wherever the script itself was installed to."""

from oca_sms_async.cli import main

main()
