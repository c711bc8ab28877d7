create function a2(x int) returns text language sql
begin atomic
  select case when x > 1 then case x when 2 then ';' else 'c' end else 'd' end;
  select 'end';
  select x::text; -- end;
end;
select a2(2);
