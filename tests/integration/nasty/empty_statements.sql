;;
 ; SELECT 1;; -- c
;/* c */;
SELECT 2;
;