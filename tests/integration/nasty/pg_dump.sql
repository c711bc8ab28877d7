--
-- PostgreSQL database dump
--

\restrict hMmmUecX0s4eUydnV4XK4Jzipho0kmx4afdEKbCcWHMjtQFtWBeEqKb7yTsCJMP

-- Dumped from database version 17.10
-- Dumped by pg_dump version 17.10

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: mood; Type: TYPE; Schema: public; Owner: -
--

CREATE TYPE public.mood AS ENUM (
    'so;so',
    'o''k'
);


--
-- Name: sum_of(integer, integer); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.sum_of(a integer, b integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT 1;
 SELECT
         CASE
             WHEN (a > 1) THEN (a + b)
             ELSE b
         END AS b;
END;


--
-- Name: touch(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.touch() RETURNS trigger
    LANGUAGE plpgsql
    AS $_$ BEGIN NEW.note := $$touched;$$; RETURN NEW; END; $_$;


SET default_tablespace = '';

--
-- Name: log; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.log (
    member_id bigint,
    body jsonb,
    raw bytea
)
PARTITION BY LIST (member_id);


SET default_table_access_method = heap;

--
-- Name: log_1; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.log_1 (
    member_id bigint,
    body jsonb,
    raw bytea
);


--
-- Name: members; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.members (
    id bigint NOT NULL,
    "Name; full" text DEFAULT 'it''s; \ '::text NOT NULL,
    born date,
    note text,
    CONSTRAINT members_born_check CHECK ((born > '1900-01-01'::date))
);


--
-- Name: TABLE members; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.members IS 'people; and "others"';


--
-- Name: COLUMN members.note; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.members.note IS 'a
b;\';


--
-- Name: members_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.members ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.members_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: old; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.old AS
 SELECT id,
    "Name; full",
    born,
    note,
        CASE
            WHEN (born < '1950-01-01'::date) THEN 'old;'::text
            ELSE 'new'::text
        END AS kind
   FROM public.members;


--
-- Name: log_1; Type: TABLE ATTACH; Schema: public; Owner: -
--

ALTER TABLE ONLY public.log ATTACH PARTITION public.log_1 FOR VALUES IN ('1');


--
-- Data for Name: log_1; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.log_1 (member_id, body, raw) FROM stdin;
1	{}	\N
1	{}	\N
1	{}	\N
1	{"a": "b;\\""}	\\x00ff3b
\.


--
-- Data for Name: members; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.members (id, "Name; full", born, note) FROM stdin;
1	a\tb\nc	2000-01-01	x;\\. y
2	\\.	\N	\N
3	-- no; comment	1999-12-31	 $a$ /* 
\.


--
-- Name: members_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.members_id_seq', 3, true);


--
-- Name: members members_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.members
    ADD CONSTRAINT members_pkey PRIMARY KEY (id);


--
-- Name: members noisy; Type: RULE; Schema: public; Owner: -
--

CREATE RULE noisy AS
    ON INSERT TO public.members DO ( INSERT INTO public.log_1 (member_id, body, raw)
  VALUES (1, '{}'::jsonb, NULL::bytea);

 NOTIFY members;
);


--
-- Name: members touch; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER touch BEFORE UPDATE ON public.members FOR EACH ROW EXECUTE FUNCTION public.touch();


--
-- Name: log log_member_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE public.log
    ADD CONSTRAINT log_member_id_fkey FOREIGN KEY (member_id) REFERENCES public.members(id);


--
-- Name: members; Type: ROW SECURITY; Schema: public; Owner: -
--

ALTER TABLE public.members ENABLE ROW LEVEL SECURITY;

--
-- Name: members own; Type: POLICY; Schema: public; Owner: -
--

CREATE POLICY own ON public.members USING (((note <> ';'::text) AND ("Name; full" ~ '^[a;]\w+$'::text)));


--
-- PostgreSQL database dump complete
--

\unrestrict hMmmUecX0s4eUydnV4XK4Jzipho0kmx4afdEKbCcWHMjtQFtWBeEqKb7yTsCJMP

