"""The statements over the messages of a queue. Each one is a whole step, so none needs a transaction of its own."""

from typing import Final

from oca_sms_async._postgres_statements import COLUMNS, DURABLE, OWN

_INPUT: Final = """
input AS (
    SELECT * FROM unnest(
        %(identities)s::bytea[], %(contents)s::bytea[], %(keys)s::text[], %(phones)s::text[], %(messages)s::text[],
        %(expiries)s::timestamptz[], %(priorities)s::smallint[]
    ) WITH ORDINALITY AS i (identity, content, key, phone, message, expires_at, priority, place)
)
"""

# The primary key of oca_sms_queued decides between two that put the same key: the second waits for the first one's
# transaction. Rows go in by their identity, so that two batches with the same keys do not wait for each other. Jobs are
# numbered by their place, because Procrastinate takes the lowest number first.
PUT: Final = f"""
WITH own AS ({OWN} AND {DURABLE}),
{_INPUT},
fresh AS MATERIALIZED (
    SELECT i.*, nextval('procrastinate_jobs_id_seq') AS job
    FROM (SELECT * FROM input ORDER BY place) i CROSS JOIN own
    WHERE NOT EXISTS (SELECT FROM oca_sms_queued q WHERE q.journal = %(journal)s AND q.identity = i.identity)
        AND NOT EXISTS (
            SELECT FROM oca_sms_message m
            WHERE m.journal = %(journal)s AND m.identity = i.identity AND m.status <> 0
        )
),
queued AS (
    INSERT INTO oca_sms_queued
        (journal, identity, content, call, job, priority, since, expires_at, key, phone, message)
    SELECT %(journal)s, identity, content, %(call)s, job, priority, clock_timestamp(), expires_at, key, phone, message
    FROM fresh ORDER BY identity, place
    ON CONFLICT (journal, identity) DO NOTHING
    RETURNING job, priority
)
INSERT INTO procrastinate_jobs (id, queue_name, task_name, priority)
SELECT job, %(queue)s, %(task)s, CASE priority WHEN 0 THEN 1 ELSE 0 END FROM queued ORDER BY job
"""

# The state of each message of a batch. `mine` was queued by this call, perhaps before a connection was lost. `live` is
# waiting or being sent. `known` is sent or in doubt. `kept` and not `live` is a job that was cancelled by hand.
CLASSIFY: Final = f"""
WITH own AS ({OWN}),
{_INPUT}
SELECT i.place, q.call = %(call)s AS mine, j.status IN ('todo', 'doing') AS live, q.job IS NOT NULL AS kept,
    m.status <> 0 AS known, CASE WHEN m.status <> 0 THEN m.content ELSE q.content END = i.content AS same
FROM own CROSS JOIN input i
LEFT JOIN oca_sms_queued q ON q.journal = %(journal)s AND q.identity = i.identity
LEFT JOIN procrastinate_jobs j ON j.id = q.job
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
ORDER BY i.place
"""

# Jobs that were cancelled by hand: their messages are done, and are kept no longer. Without `identities`, all of them.
CLEAN: Final = """
DELETE FROM procrastinate_jobs j USING oca_sms_queued q
WHERE q.job = j.id AND q.journal = %(journal)s AND j.status NOT IN ('todo', 'doing')
    AND (%(identities)s::bytea[] IS NULL OR q.identity = ANY (%(identities)s))
"""

READ: Final = f"""
SELECT q.identity, q.content, q.phone, q.message, q.key, q.expires_at, q.priority, {COLUMNS}
FROM oca_sms_queued q LEFT JOIN oca_sms_message m ON m.journal = q.journal AND m.identity = q.identity
WHERE q.journal = %(journal)s AND q.job = %(job)s
"""

# A failure before the first byte has no entry yet. One that was sent or is in doubt meanwhile stays so.
FAIL: Final = f"""
INSERT INTO oca_sms_message AS m
    (journal, identity, content, claim, status, attempts, began, ended, error, code)
SELECT %(journal)s, %(identity)s, %(content)s, %(claim)s, 0, 0, clock_timestamp(), clock_timestamp(),
    %(error)s, %(code)s
FROM ({OWN} AND {DURABLE}) own
ON CONFLICT (journal, identity) DO UPDATE SET
    content = excluded.content, claim = excluded.claim, ended = excluded.ended, error = excluded.error,
    code = excluded.code
WHERE m.status = 0
"""

LOOK_UP: Final = f"""
SELECT j.status IN ('todo', 'doing'), {COLUMNS}
FROM ({OWN}) own
LEFT JOIN oca_sms_queued q ON q.journal = %(journal)s AND q.identity = %(identity)s
LEFT JOIN procrastinate_jobs j ON j.id = q.job
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = %(identity)s
"""

COUNT: Final = f"""
SELECT count(*) FILTER (WHERE j.status = 'todo' AND q.priority = 0),
    count(*) FILTER (WHERE j.status = 'todo' AND q.priority <> 0),
    count(*) FILTER (WHERE j.status = 'doing'),
    extract(epoch FROM clock_timestamp() - min(q.since))::float8
FROM ({OWN}) own CROSS JOIN oca_sms_queued q JOIN procrastinate_jobs j ON j.id = q.job
WHERE q.journal = %(journal)s AND j.status IN ('todo', 'doing')
"""

# Jobs of workers without a heartbeat, and of those whose row another worker has removed already.
RECOVER: Final = """
UPDATE procrastinate_jobs SET status = 'todo', scheduled_at = NULL, attempts = attempts + 1
WHERE status = 'doing' AND queue_name = %(queue)s AND task_name = %(task)s AND NOT EXISTS (
    SELECT FROM procrastinate_workers w
    WHERE w.id = worker_id AND w.last_heartbeat > now() - %(silence)s * interval '1 second'
)
"""

LIST_TAKEN: Final = """
SELECT id FROM procrastinate_jobs
WHERE status = 'doing' AND worker_id = %(worker)s AND queue_name = %(queue)s AND task_name = %(task)s
"""

GIVE_BACK: Final = """
UPDATE procrastinate_jobs SET status = 'todo', scheduled_at = NULL, attempts = attempts + 1
WHERE status = 'doing' AND worker_id = %(worker)s AND id = ANY (%(jobs)s::bigint[])
"""

# Messages that may own a record of the history: those in doubt, and those whose second copy may be in it.
LIST_DOUBTFUL: Final = f"""
SELECT m.identity, {COLUMNS}
FROM oca_sms_message m
WHERE m.journal = %(journal)s AND m.content IN (
    SELECT d.content FROM oca_sms_message d
    WHERE d.journal = %(journal)s AND d.status = 1 AND (d.busy_until IS NULL OR d.busy_until <= clock_timestamp())
) AND (m.status = 1 OR m.status = 2 AND m.attempts > 1)
"""
