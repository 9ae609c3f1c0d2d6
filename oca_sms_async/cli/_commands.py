"""The commands: the places of their functions, and the words of their help.

The words stand here and not beside the functions: `oca-sms --help` shows them without importing any command's room.
"""

from typing import Final

# The place of a command's function, and its help. The first sentence stands in the help of `oca-sms` too.
COMMANDS: Final = {
    "demo": (
        "oca_sms_async.cli._demo:demo",
        """Send 250 one-time passwords to a sandbox on this machine, with a progress bar. No SMS leaves the machine.

Some sends meet an internal error and are sent again, and the gateway refuses some of the numbers.
""",
    ),
    "send": (
        "oca_sms_async.cli._messages:send",
        """Send one message and print its receipt.

An error says whether the message may have been sent.
""",
    ),
    "bulk": (
        "oca_sms_async.cli._bulk:bulk",
        """Send a file of messages: columns phone, message, and optionally key and expires_at (ISO 8601 with an offset).

First the whole file is checked. With --journal, the same command goes on after an interruption or a kill: it sends
no message twice, and names the messages that may have been sent. The first Ctrl-C, SIGTERM or SIGHUP lets requests
on the wire finish; Ctrl-C after it cuts them short. Exit status: 0 all sent, 1 some failed or unknown, or output
was lost, 2 bad usage or input, 3 stopped by the account or an outage, 129, 130 and 143 ended by a signal.
""",
    ),
    "queue": (
        "oca_sms_async.cli._queue:queue",
        """Work with the durable queue in PostgreSQL.

The database comes from `OCA_SMS_DATABASE`, a PostgreSQL URL or connection string, or else from libpq's own variables:
`PGHOST`, `PGDATABASE`, `PGUSER`, `PGPASSWORD` and their like.
""",
    ),
    "status": (
        "oca_sms_async.cli._messages:status",
        "Print the gateway's record of one message.",
    ),
    "history": (
        "oca_sms_async.cli._messages:history",
        "Print the account's newest messages, the newest last: a table on a terminal, else lines with tabs.",
    ),
    "check": (
        "oca_sms_async.cli._messages:check",
        "Print how many segments a text takes, and how Indonesian networks may change it. No account is needed.",
    ),
    "sandbox": (
        "oca_sms_async.cli._serve:sandbox",
        """Serve a gateway that sends no SMS, until Ctrl-C or SIGTERM, and print the variables that a program needs.

Its page shows the messages as they arrive, and has switches for faults. The exit status is 2 if the address cannot
be had: a port that is taken, say.
""",
    ),
}
