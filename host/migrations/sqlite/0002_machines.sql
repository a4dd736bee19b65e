-- Machines that fetch their configuration themselves, once, and say how far they have come.

ALTER TABLE runners ADD COLUMN exchanged_at BIGINT;
ALTER TABLE runners ADD COLUMN phase TEXT;
