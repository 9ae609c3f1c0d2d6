"""The statements over a journal's messages in PostgreSQL. Each one is a whole step: a claim, an outcome, a lookup."""

from typing import Final

# A database may be told to answer before a commit is on the disk. Then an intent would not outlive a crash.
DURABLE: Final = (
    "(current_setting('synchronous_commit') <> 'off' OR set_config('synchronous_commit', 'on', true) = 'on')"
)
# Where the tables were dropped and made anew, the same number names a journal with another salt.
OWN: Final = "SELECT FROM oca_sms_journal WHERE journal = %(journal)s AND salt = %(salt)s"
COLUMNS: Final = """m.claim, m.content, m.status, m.attempts,
    extract(epoch FROM m.began)::float8, extract(epoch FROM m.ended)::float8,
    extract(epoch FROM greatest(m.busy_until - clock_timestamp(), interval '0'))::float8,
    m.msg_uid, m.word, m.error, m.code"""

# Many messages in one statement, each row in its place.
LOOK_UP: Final = f"""
WITH input AS (SELECT * FROM unnest(%(identities)s::bytea[]) WITH ORDINALITY AS i (identity, place))
SELECT {COLUMNS}
FROM ({OWN}) own CROSS JOIN input i
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
ORDER BY i.place
"""

# A claim succeeds if the entry is as it was looked up. Each claim has a token of its own, so an entry that another
# sender had meanwhile differs, even if it was forgotten and begun anew. A repeated statement finds its own token. No
# message may stand in a statement twice. All statements lock their messages in one order: else two could wait for each
# other.
INTEND: Final = f"""
WITH own AS ({OWN} AND {DURABLE}),
input AS (
    SELECT * FROM unnest(
        %(identities)s::bytea[], %(contents)s::bytea[], %(claims)s::bytea[], %(knowns)s::bytea[],
        %(attempts)s::integer[], %(seconds)s::float8[]
    ) WITH ORDINALITY AS i (identity, content, claim, known, attempts, seconds, place)
),
claimed AS (
    INSERT INTO oca_sms_message AS m (journal, identity, content, claim, status, attempts, began, ended, busy_until)
    SELECT %(journal)s, i.identity, i.content, i.claim, 1, i.attempts,
        clock_timestamp(), clock_timestamp(), clock_timestamp() + i.seconds * interval '1 second'
    FROM own CROSS JOIN input i ORDER BY i.identity
    ON CONFLICT (journal, identity) DO UPDATE SET
        content = excluded.content, claim = excluded.claim, status = 1, attempts = excluded.attempts,
        began = CASE WHEN m.status = 1 THEN m.began ELSE excluded.began END,
        ended = excluded.ended, busy_until = excluded.busy_until, error = NULL, code = NULL
    WHERE (m.claim = (SELECT i.known FROM input i WHERE i.identity = excluded.identity) AND (m.status = 0
            OR m.status = 1 AND (m.busy_until IS NULL OR m.busy_until <= clock_timestamp())))
        OR (m.claim = excluded.claim AND m.status = 1 AND m.busy_until IS NOT NULL)
    RETURNING m.identity
)
SELECT EXISTS (SELECT FROM own), c.identity IS NOT NULL
FROM input i LEFT JOIN claimed c ON c.identity = i.identity
ORDER BY i.place
"""

# Only the claimer settles. A message that was found sent meanwhile stays sent. The first part waits for claims that are
# under way, and knows their outcome then.
SETTLE: Final = f"""
WITH input AS (
    SELECT * FROM unnest(
        %(identities)s::bytea[], %(claims)s::bytea[], %(statuses)s::smallint[], %(attempts)s::integer[],
        %(uids)s::bytea[], %(words)s::bytea[], %(errors)s::text[], %(codes)s::bigint[]
    ) WITH ORDINALITY AS i (identity, claim, status, attempts, msg_uid, word, error, code, place)
),
mine AS (
    SELECT m.identity
    FROM input i JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity AND m.claim = i.claim
    WHERE {DURABLE}
    ORDER BY m.identity
    FOR UPDATE OF m
),
settled AS (
    UPDATE oca_sms_message AS m SET
        status = i.status, attempts = i.attempts, ended = clock_timestamp(), busy_until = NULL,
        msg_uid = i.msg_uid, word = i.word, error = i.error, code = i.code
    FROM mine JOIN input i ON i.identity = mine.identity
    WHERE m.journal = %(journal)s AND m.identity = mine.identity AND (m.status = 1 OR i.status = 2)
)
SELECT mine.identity IS NOT NULL
FROM input i LEFT JOIN mine ON mine.identity = i.identity
ORDER BY i.place
"""

FIND: Final = f"""
UPDATE oca_sms_message AS m SET
    status = 2, attempts = %(attempts)s, ended = clock_timestamp(), busy_until = NULL,
    msg_uid = %(msg_uid)s, word = %(word)s, error = NULL, code = NULL
WHERE m.journal = %(journal)s AND m.identity = %(identity)s AND m.claim = %(known)s AND m.status = 1
    AND NOT EXISTS (SELECT FROM oca_sms_message o WHERE o.journal = %(journal)s AND o.msg_uid = %(msg_uid)s)
    AND {DURABLE}
RETURNING 1
"""

# A page of the journal. Messages whose senders may be at work stay.
FORGET: Final = """
WITH page AS (
    SELECT identity FROM oca_sms_message
    WHERE journal = %(journal)s AND identity > %(after)s ORDER BY identity LIMIT %(many)s
),
gone AS (
    DELETE FROM oca_sms_message m USING page
    WHERE m.journal = %(journal)s AND m.identity = page.identity AND m.ended < %(before)s
        AND (m.status <> 1 OR %(doubtful)s AND (m.busy_until IS NULL OR m.busy_until <= clock_timestamp()))
    RETURNING 1
)
SELECT (SELECT identity FROM page ORDER BY identity DESC LIMIT 1), (SELECT count(*) FROM gone)
"""

# The names that a run came to, for as long as its connection lives.
CREATE_SEEN: Final = """
CREATE TEMPORARY TABLE oca_sms_seen (identity bytea PRIMARY KEY, content bytea, times bigint NOT NULL)
"""

# Many messages in one statement, each row in its place. No key may stand in it twice.
LOOK_UP_NEXT_KEYS: Final = f"""
WITH input AS (
    SELECT * FROM unnest(%(identities)s::bytea[], %(contents)s::bytea[]) WITH ORDINALITY AS i (identity, content, place)
),
noted AS (
    INSERT INTO pg_temp.oca_sms_seen
    SELECT i.identity, i.content, 1
    FROM input i LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
    WHERE m.status IS NULL OR m.status = 0 OR m.content = i.content
    ON CONFLICT DO NOTHING
)
SELECT i.identity, s.content, {COLUMNS}
FROM ({OWN}) own CROSS JOIN input i
LEFT JOIN pg_temp.oca_sms_seen s ON s.identity = i.identity
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
ORDER BY i.place
"""

# As above. The name of a message without a key ends in its place among equal ones.
LOOK_UP_NEXT: Final = f"""
WITH input AS (
    SELECT content, place, row_number() OVER (PARTITION BY content ORDER BY place) AS nth
    FROM unnest(%(contents)s::bytea[]) WITH ORDINALITY AS i (content, place)
),
noted AS (
    INSERT INTO pg_temp.oca_sms_seen AS s SELECT content, NULL, count(*) FROM input GROUP BY content
    ON CONFLICT (identity) DO UPDATE SET times = s.times + excluded.times
),
named AS (
    SELECT i.place, i.content || int8send(coalesce(s.times, 0) + i.nth) AS identity
    FROM input i LEFT JOIN pg_temp.oca_sms_seen s ON s.identity = i.content
)
SELECT i.identity, NULL, {COLUMNS}
FROM ({OWN}) own CROSS JOIN named i
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
ORDER BY i.place
"""

COUNT_DOUBTFUL: Final = """
SELECT count(*) FROM oca_sms_message
WHERE journal = %(journal)s AND status = 1 AND (busy_until IS NULL OR busy_until <= clock_timestamp())
"""
