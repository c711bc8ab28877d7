SELECT 1+--c;
2;
SELECT 4*/*;*/5, 6//*;*/2;
SELECT 1 - -1, 1-(-1), +-+1;
SELECT 3 <--;
4;
SELECT '{}'::jsonb @>/*;*/'{}';
SELECT 1 */* ; */ 2;
SELECT 5/-1;
