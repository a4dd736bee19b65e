-- Times are milliseconds since the epoch. Migrations only go forward: expand first, contract in a later release.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE jobs (
    id              BIGINT NOT NULL,
    attempt         BIGINT NOT NULL,
    run_id          BIGINT NOT NULL,
    repo            TEXT   NOT NULL,
    repo_key        TEXT   NOT NULL,
    installation_id BIGINT,
    name            TEXT   NOT NULL,
    workflow        TEXT,
    branch          TEXT,
    html_url        TEXT,
    labels          TEXT   NOT NULL,
    status          TEXT   NOT NULL,
    conclusion      TEXT,
    project         TEXT,
    pool            TEXT,
    runner          TEXT,
    reason          TEXT,
    losses          BIGINT NOT NULL,
    received_at     BIGINT NOT NULL,
    queued_at       BIGINT NOT NULL,
    claimed_at      BIGINT,
    starting_at     BIGINT,
    running_at      BIGINT,
    completed_at    BIGINT,
    updated_at      BIGINT NOT NULL,
    PRIMARY KEY (id, attempt)
);

-- The listing and its filters. Nothing but `status` and `project` in these ever changes, and `project` seldom.
CREATE INDEX jobs_listing ON jobs (queued_at, id, attempt);
CREATE INDEX jobs_by_repo ON jobs (repo_key, queued_at, id, attempt);
CREATE INDEX jobs_by_project ON jobs (project, queued_at, id, attempt);
-- What the fleet works on, however many jobs are over.
CREATE INDEX jobs_active ON jobs (queued_at, id, attempt)
    WHERE status IN ('waiting', 'unmatched', 'queued', 'claimed', 'starting', 'running');
-- The rare ends, which people filter by.
CREATE INDEX jobs_mishaps ON jobs (queued_at, id, attempt)
    WHERE status IN ('failed', 'cancelled');

CREATE TABLE runners (
    name             TEXT   NOT NULL PRIMARY KEY,
    state            TEXT   NOT NULL,
    project          TEXT   NOT NULL,
    pool             TEXT   NOT NULL,
    backend          TEXT   NOT NULL,
    digest           TEXT,
    target           TEXT   NOT NULL,
    repo_key         TEXT,
    installation_id  BIGINT,
    github_runner_id BIGINT,
    handle           TEXT,
    job_id           BIGINT,
    job_attempt      BIGINT,
    created_at       BIGINT NOT NULL,
    state_at         BIGINT NOT NULL,
    deadline         BIGINT NOT NULL,
    registered_at    BIGINT,
    busy_at          BIGINT,
    error            TEXT
);

CREATE INDEX runners_listing ON runners (created_at, name);
CREATE INDEX runners_active ON runners (created_at, name)
    WHERE state IN ('planned', 'registering', 'creating', 'booting', 'idle', 'busy', 'stopping');

CREATE TABLE events (
    seq         INTEGER PRIMARY KEY,
    at          BIGINT NOT NULL,
    job_id      BIGINT,
    job_attempt BIGINT,
    runner      TEXT,
    kind        TEXT   NOT NULL,
    detail      TEXT
);

CREATE INDEX events_of_job ON events (job_id, job_attempt) WHERE job_id IS NOT NULL;
CREATE INDEX events_of_runner ON events (runner) WHERE runner IS NOT NULL;

-- Listed and pruned in the order of arrival, which is `seq`: an index by time would only cost.
CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY,
    guid        TEXT   NOT NULL UNIQUE,
    received_at BIGINT NOT NULL,
    event       TEXT   NOT NULL,
    action      TEXT   NOT NULL,
    result      TEXT   NOT NULL,
    reason      TEXT,
    job_id      BIGINT,
    job_attempt BIGINT,
    source      TEXT   NOT NULL
);

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    detail  TEXT
);

CREATE TABLE pauses (
    project  TEXT   NOT NULL,
    pool     TEXT   NOT NULL,
    until    BIGINT NOT NULL,
    reason   TEXT   NOT NULL,
    failures BIGINT NOT NULL,
    PRIMARY KEY (project, pool)
);
