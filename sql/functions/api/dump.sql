create or replace function livestore.export_hooks()
returns setof text
language sql
stable
-- With nothing else in the path, definitions have full names.
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
-- Literals in definitions are written as this setting wants them: exported is the form that the standard has.
set standard_conforming_strings = on
as $$
    with exported as (
        select 1 as place, c.relname as name,
            regexp_replace(pg_get_indexdef(i.indexrelid), '^(CREATE (UNIQUE )?INDEX) ', E'\\1 IF NOT EXISTS ') as statement
        from pg_index i
        join pg_class c on c.oid = i.indexrelid
        where i.indrelid = 'livestore.eventlog_1'::regclass and i.indisvalid
            and not exists (
                select from pg_constraint o
                where o.conrelid = i.indrelid and o.conindid = i.indexrelid and o.contype in ('p', 'u', 'x')
            )
        union all
        select 2, t.stxname, regexp_replace(pg_get_statisticsobjdef(t.oid), '^CREATE STATISTICS ', 'CREATE STATISTICS IF NOT EXISTS ')
        from pg_statistic_ext t
        where t.stxrelid = 'livestore.eventlog_1'::regclass
        union all
        -- Without ONLY: dedicated tables inherit checks.
        select 3, o.conname, format(
            'ALTER TABLE livestore.eventlog_1 DROP CONSTRAINT IF EXISTS %1$I, ADD CONSTRAINT %1$I %2$s', o.conname, pg_get_constraintdef(o.oid)
        )
        from pg_constraint o
        where o.conrelid = 'livestore.eventlog_1'::regclass and o.contype in ('c', 'f', 'u', 'x')
        union all
        select 4, t.tgname, regexp_replace(pg_get_triggerdef(t.oid), '^CREATE TRIGGER ', 'CREATE OR REPLACE TRIGGER ')
        from pg_trigger t
        where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgname <> 'livestore_event_types'
        union all
        select 5, t.tgname, format(
            'ALTER TABLE livestore.eventlog_1 %s TRIGGER %I',
            case t.tgenabled when 'D' then 'DISABLE' when 'A' then 'ENABLE ALWAYS' else 'ENABLE REPLICA' end, t.tgname
        )
        from pg_trigger t
        where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgenabled <> 'O'
        union all
        select 6, r.rulename, regexp_replace(rtrim(pg_get_ruledef(r.oid), ';'), '^CREATE RULE ', 'CREATE OR REPLACE RULE ')
        from pg_rewrite r
        where r.ev_class = 'livestore.eventlog_1'::regclass
        union all
        select 7, r.rulename, format(
            'ALTER TABLE livestore.eventlog_1 %s RULE %I',
            case r.ev_enabled when 'D' then 'DISABLE' when 'A' then 'ENABLE ALWAYS' else 'ENABLE REPLICA' end, r.rulename
        )
        from pg_rewrite r
        where r.ev_class = 'livestore.eventlog_1'::regclass and r.ev_enabled <> 'O'
        union all
        select 8, '', 'ALTER TABLE livestore.eventlog_1 ENABLE ROW LEVEL SECURITY'
        from pg_class c where c.oid = 'livestore.eventlog_1'::regclass and c.relrowsecurity
        union all
        select 9, p.polname, format('DROP POLICY IF EXISTS %1$I ON livestore.eventlog_1; CREATE POLICY %1$I ON livestore.eventlog_1 AS %2$s FOR %3$s TO %4$s', p.polname,
            case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
            case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
            (select string_agg(case r.id when 0 then 'PUBLIC' else r.id::regrole::text end, ', ') from unnest(p.polroles) r(id))
        ) || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
            || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
        from pg_policy p
        where p.polrelid = 'livestore.eventlog_1'::regclass and p.polname <> 'livestore_hooks'
        union all
        -- Dedicated tables are still in it.
        select 10, p.pubname, format('ALTER PUBLICATION %I ADD TABLE ONLY %s', p.pubname, r.prrelid::regclass)
            || coalesce(' (' || (
                select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
                from pg_attribute a where a.attrelid = r.prrelid and a.attnum = any (part.columns)
            ) || ')', '')
            || coalesce(' WHERE (' || part.filter || ')', '')
        from pg_publication p
        join pg_publication_rel r on r.prpubid = p.oid
        -- PostgreSQL 14 has neither columns nor filters, and finds the names outside of the subquery.
        cross join (values (null::int2vector, null::pg_node_tree)) missing(prattrs, prqual)
        cross join lateral (
            select (select prattrs from pg_publication_rel o where o.oid = r.oid) as columns,
                (select pg_get_expr(prqual, o.prrelid) from pg_publication_rel o where o.oid = r.oid) as filter
        ) part
        where r.prrelid in ('livestore.eventlog_1'::regclass, 'livestore.store_names'::regclass)
        union all
        -- All but those of privileges.sql.
        select 11, c.relname, format(
            'GRANT %s ON TABLE %s TO %s', a.privilege_type, c.oid::regclass, case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end
        ) || case when a.is_grantable then ' WITH GRANT OPTION' else '' end
        from pg_class c
        join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        cross join lateral aclexplode(c.relacl) a
        where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v') and a.grantee <> c.relowner
            and (a.grantee, a.privilege_type) <> ('livestore_reader'::regrole, 'SELECT')
            and (c.relname, a.grantee, a.privilege_type) <> ('eventlog_1', 'livestore_hooks'::regrole, 'INSERT')
    )
    select s.statement || ';'
    from (
        select * from exported
        union all
        select 0, '', 'SET standard_conforming_strings = on'
        where exists (select from exported e where strpos(e.statement, chr(92)) > 0)
    ) s(place, name, statement)
    order by s.place, s.name, s.statement
$$;

comment on function livestore.export_hooks() is
'What a dump leaves out of livestore.eventlog_1, since it is an extension''s table: statements that create your triggers, indexes, statistics, constraints, rules and policies on it, and add it to your publications; and the privileges that you granted on the extension''s tables, which a dump may leave out. Run them after a restore';
