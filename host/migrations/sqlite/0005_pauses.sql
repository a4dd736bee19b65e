-- What shows that a pool's trouble is over: a `machine`, or a `runner` that came online.

ALTER TABLE pauses ADD COLUMN proof TEXT NOT NULL DEFAULT 'machine';
