SELECT 'a;b', ';', ';;' ;
SELECT 'x
;
y';
