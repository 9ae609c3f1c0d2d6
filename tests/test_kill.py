"""A campaign whose process is killed again and again: no message goes out twice, and none is forgotten."""

import csv
import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from command import Ended, account, end_of, environment, start, until

from oca_sms_async.sandbox import Sandbox

KILLS: Final = int(os.environ.get("OCA_SMS_TEST_KILLS", "8"))
CONCURRENCY: Final = 8
ROWS_A_KILL: Final = 40
SEEDS: Final = [int(os.environ.get("OCA_SMS_TEST_SEED", "1"))]


class Campaign:
    """A file of messages, each with a text of its own, and the process that sends it to a sandbox."""

    def __init__(self, folder: Path, sandbox: Sandbox, rows: int) -> None:
        self.sandbox = sandbox
        self.texts = [f"Acme: {row:06} is your code" for row in range(1, rows + 1)]
        self._file, self._journal, self._out = folder / "messages.csv", folder / "journal", folder / "outcomes.jsonl"
        with self._file.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["phone", "message"])
            # Few recipients, so that only the text tells their messages apart.
            writer.writerows([f"0812345670{row % 7:02}", text] for row, text in enumerate(self.texts))

    @property
    def accepted(self) -> Counter[str]:
        """The number of times that the gateway accepted each text."""
        return Counter(message.text for message in self.sandbox.inbox)

    def read_outcomes(self) -> list[dict[str, Any]]:
        """Return the lines of the file of outcomes, by row."""
        lines = [json.loads(line) for line in self._out.read_text().splitlines()]
        return sorted(lines, key=lambda line: line["row"])

    def list_unknown(self) -> list[int]:
        """Return the rows whose outcome is «unknown»."""
        return [line["row"] for line in self.read_outcomes() if line["outcome"] == "unknown"]

    async def run(self, *options: str, killed_after: int | None = None) -> Ended:
        """Run the command to its end, or kill it after the gateway accepted so many more messages."""
        files = (str(self._file), "--journal", str(self._journal), "--out", str(self._out))
        pace = ("--rate", "1000", "--concurrency", str(CONCURRENCY))
        env = environment(**account(self.sandbox))
        before = len(self.sandbox.inbox)
        async with start("bulk", *files, *pace, *options, env=env) as process:
            if killed_after is not None:
                enough = before + killed_after
                await until(lambda: len(self.sandbox.inbox) >= enough or process.returncode is not None)
                process.send_signal(signal.SIGKILL)
            ended = await end_of(process)
        if killed_after is not None:
            self._carry_journal()
        return ended

    def _carry_journal(self) -> None:
        """Keep the named file alone, as a machine does that mounts no more than that."""
        folder = Path(tempfile.mkdtemp(dir=self._file.parent))
        if self._journal.exists():
            shutil.move(self._journal, folder)
        self._journal = folder / self._journal.name

    def assert_no_message_is_lost_or_doubled(self) -> None:
        """Assert that each row has one line, and that the lines and the gateway agree."""
        outcomes = self.read_outcomes()
        assert [line["row"] for line in outcomes] == list(range(1, len(self.texts) + 1))
        assert set(self.accepted.values()) <= {1}
        ids = {message.text: message.msg_uid for message in self.sandbox.inbox}
        for line, text in zip(outcomes, self.texts, strict=True):
            if line["outcome"] == "sent":
                assert line["msg_uid"] == ids[text]
            else:
                assert line["outcome"] == "unknown"
        assert set(ids) <= set(self.texts)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_campaign_survives_being_killed(tmp_path: Path, sandbox: Sandbox, seed: int) -> None:
    """Kills at random moments send no message twice, and leave a few messages in doubt, all of them named.

    The history settles the messages that arrived. `--resend-unknown` sends the others.
    """
    draw = random.Random(seed)
    campaign = Campaign(tmp_path, sandbox, KILLS * ROWS_A_KILL + 50)
    for _ in range(KILLS):
        sandbox.latency = draw.choice([0.0, 0.005, 0.05])
        assert (await campaign.run(killed_after=draw.randrange(ROWS_A_KILL))).status == -signal.SIGKILL
    sandbox.latency = 0.0

    ended = await campaign.run()
    unknown = campaign.list_unknown()
    assert ended.status == 1
    assert 0 < len(unknown) <= KILLS * CONCURRENCY
    campaign.assert_no_message_is_lost_or_doubled()

    arrived = [row for row in unknown if campaign.texts[row - 1] in campaign.accepted]
    await campaign.run("--reconcile")
    assert campaign.list_unknown() == [row for row in unknown if row not in arrived]
    campaign.assert_no_message_is_lost_or_doubled()

    ended = await campaign.run("--resend-unknown")
    assert ended.status == 0, ended
    assert campaign.list_unknown() == []
    campaign.assert_no_message_is_lost_or_doubled()
