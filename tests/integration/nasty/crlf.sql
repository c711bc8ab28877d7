CREATE TABLE crlf (a text);
INSERT INTO crlf VALUES ('a;
b'),
  ($$c;
$$); -- x

SELECT 1
;
SELECT 'a'
'b';
