/*
 * SELECT 1;
 -- '

 */
SELECT /* in
 the; middle */ 2;
SELECT 3 /* end;
*/;
