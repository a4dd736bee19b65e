-- Jobs that lost their machines are few, and so are later attempts: both are looked for at every start.

CREATE INDEX jobs_interrupted ON jobs (updated_at) WHERE interruption IS NOT NULL;
CREATE INDEX jobs_later_attempts ON jobs (run_id) WHERE attempt > 1;
