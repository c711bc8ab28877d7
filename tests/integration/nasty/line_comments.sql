-- it's; "
SELECT 1 -- ; ' " $$ /*
, 2;
--SELECT 3;
SELECT 4;--
SELECT 5 --- ;
;
--
