SELECT (array[1,2,3])[1:2], '{;}'::text[];
SELECT [1;2];
SELECT {1;2};
