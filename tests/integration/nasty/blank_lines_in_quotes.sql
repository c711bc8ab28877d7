SELECT 'a


b;';
SELECT $$

;

$$;
SELECT "x

;";
