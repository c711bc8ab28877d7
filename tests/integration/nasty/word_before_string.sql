SELECT date'2026-01-02', time'10:00;', interval'1 day';
SELECT type'x;\';
SELECT the'x\';
