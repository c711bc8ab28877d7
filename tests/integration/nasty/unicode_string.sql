SELECT U&'d\0061t\+000061;', u&'it''s;';
SELECT U&'d!0061t!+000061\' UESCAPE '!';
SELECT U&"d\0061t;""a" FROM (SELECT 1 AS "dat;""a") x;
SELECT u &1;
