create or replace function livestore.export_hooks()
returns setof text
language sql
stable
-- With nothing else in the path, definitions have full names.
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    select s.statement || ';'
    from (
        select 1, c.relname, regexp_replace(pg_get_indexdef(i.indexrelid), '^(CREATE (UNIQUE )?INDEX) ', '\1 IF NOT EXISTS ')
        from pg_index i
        join pg_class c on c.oid = i.indexrelid
        where i.indrelid = 'livestore.eventlog_1'::regclass and not i.indisprimary
        union all
        select 2, t.stxname, regexp_replace(pg_get_statisticsobjdef(t.oid), '^CREATE STATISTICS ', 'CREATE STATISTICS IF NOT EXISTS ')
        from pg_statistic_ext t
        where t.stxrelid = 'livestore.eventlog_1'::regclass
        union all
        select 3, t.tgname, regexp_replace(pg_get_triggerdef(t.oid), '^CREATE TRIGGER ', 'CREATE OR REPLACE TRIGGER ')
        from pg_trigger t
        where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgname <> 'livestore_event_types'
        union all
        select 4, t.tgname, format(
            'ALTER TABLE livestore.eventlog_1 %s TRIGGER %I',
            case t.tgenabled when 'D' then 'DISABLE' when 'A' then 'ENABLE ALWAYS' else 'ENABLE REPLICA' end, t.tgname
        )
        from pg_trigger t
        where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgenabled <> 'O'
        union all
        select 5, '', 'ALTER TABLE livestore.eventlog_1 ENABLE ROW LEVEL SECURITY'
        from pg_class c where c.oid = 'livestore.eventlog_1'::regclass and c.relrowsecurity
        union all
        select 6, p.polname, format('DROP POLICY IF EXISTS %1$I ON livestore.eventlog_1; CREATE POLICY %1$I ON livestore.eventlog_1 AS %2$s FOR %3$s TO %4$s', p.polname,
            case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
            case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
            (select string_agg(case r.id when 0 then 'PUBLIC' else r.id::regrole::text end, ', ') from unnest(p.polroles) r(id))
        ) || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
            || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
        from pg_policy p
        where p.polrelid = 'livestore.eventlog_1'::regclass and p.polname <> 'livestore_hooks'
        union all
        -- Dedicated tables are still in it.
        select 7, p.pubname, format('ALTER PUBLICATION %I ADD TABLE ONLY %s', p.pubname, t.name)
        from pg_publication p
        join pg_publication_rel r on r.prpubid = p.oid
        cross join lateral (select r.prrelid::regclass::text) t(name)
        where r.prrelid in ('livestore.eventlog_1'::regclass, 'livestore.store_names'::regclass)
    ) s(place, name, statement)
    order by s.place, s.name, s.statement
$$;

comment on function livestore.export_hooks() is
'What a dump leaves out of livestore.eventlog_1, since it is an extension''s table: statements that create your triggers, indexes, statistics and policies on it, and add it to your publications. Run them after a restore';
