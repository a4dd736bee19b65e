-- Runners by project, and those that failed: what people filter by, and what would else be a walk through all of them.

CREATE INDEX runners_by_project ON runners (project, created_at, name);
CREATE INDEX runners_failed ON runners (created_at, name) WHERE state = 'failed';
