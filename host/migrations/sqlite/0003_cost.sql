-- What machines cost, and what became of jobs whose machines their providers took away.
--
-- Costs are as the backends said: in millionths of the currency's unit, an hour and in the end.

ALTER TABLE runners ADD COLUMN rate_micros BIGINT;
ALTER TABLE runners ADD COLUMN rate_currency TEXT;
ALTER TABLE runners ADD COLUMN rate_granularity BIGINT;
ALTER TABLE runners ADD COLUMN rate_minimum BIGINT;
ALTER TABLE runners ADD COLUMN rate_since BIGINT;
ALTER TABLE runners ADD COLUMN cost_micros BIGINT;

ALTER TABLE jobs ADD COLUMN interruption TEXT;
