SELECT $$a;b'c"d--e/*f$$;
SELECT $tag$ $$ ; $other$ ; $tag $ta$g$ $tag$;
SELECT $_1$;$_1$ , $é$;$é$, $A$ $a$; $A$;
