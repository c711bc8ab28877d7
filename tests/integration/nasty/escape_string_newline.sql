SELECT E'line one \
line two;\
';
SELECT 1;
