/* a; 'b */ SELECT 1 /* ; " $$ */ ;
/* outer /* inner; */ still; */ SELECT 2;
/**/SELECT/**/3/***/;
/* /*/ */ */ SELECT 4;
/*/ */SELECT 5;
/***//****/SELECT 6;
