SELECT 1..10;
SELECT 1e5, 1e-5, 1.5E+3, .5, 5., 1_000, 0x1F, 0o17, 0b11;
SELECT 1e, 1e--'a;';
SELECT 1_0e+--'b;', 1.e---';
;
SELECT 1E'x\';
SELECT 2;
SELECT 1.E'y\';
SELECT 3;
