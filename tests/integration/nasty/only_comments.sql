-- nothing
/* at all; */
-- here;
