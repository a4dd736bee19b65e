-- To what the runners of a job were lost, as a JSON object of counts by word: a job is given up by the kind of trouble.
-- `losses` keeps their sum.

ALTER TABLE jobs ADD COLUMN losses_by TEXT;
