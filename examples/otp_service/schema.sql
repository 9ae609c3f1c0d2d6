-- The newest code of each login. `sends` counts the codes that were made for it, and `tries` the guesses at all of them.
CREATE TABLE IF NOT EXISTS otp_login (
    login uuid PRIMARY KEY,
    phone text NOT NULL,
    digest bytea NOT NULL,
    sends integer NOT NULL DEFAULT 1,
    tries integer NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX IF NOT EXISTS otp_login_by_expiry ON otp_login (expires_at);

-- The sends of one number, one address, or all together. `subject` is a keyed hash.
CREATE TABLE IF NOT EXISTS otp_limit (
    subject bytea PRIMARY KEY,
    sends integer NOT NULL,
    free_at timestamptz NOT NULL,   -- the end of the cool-down
    resets_at timestamptz NOT NULL  -- the end of the day that began with the first send
);
