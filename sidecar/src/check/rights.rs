//! Checks of rights in the database beside those of the sidecar: hooks, owners, other databases of the cluster.

use tokio_postgres::{Client, Error};

use super::Report;

/// Adds what there is to say of rights.
pub async fn look(client: &Client, report: &mut Report) -> Result<(), Error> {
    // Without the extension there is nothing of ours to look at.
    let present = client.query_one("select to_regclass('livestore.eventlog_1') is not null", &[]).await?;
    if present.get(0) {
        owners(client, report).await?;
        hooks(client, report).await?;
        other_triggers(client, report).await?;
        called_code(client, report).await?;
        members(client, report).await?;
    }
    neighbours(client, report).await
}

/// Whether somebody could replace what the extension calls.
async fn owners(client: &Client, report: &mut Report) -> Result<(), Error> {
    let strangers = client
        .query(
            "select format('the schema livestore belongs to %I: alter schema livestore owner to %s', r.rolname,
                 case when exists (select from pg_extension e where e.extname = 'livestore_sync') then 'a superuser' else 'livestore_owner' end)
             from pg_namespace n join pg_roles r on r.oid = n.nspowner
             where n.nspname = 'livestore' and not r.rolsuper and r.rolname <> 'livestore_owner'
             union all
             select format('%s may create objects in the schema livestore: revoke create on schema livestore from %1$s',
                 case a.grantee when 0 then 'public' else r.rolname end)
             from pg_namespace n cross join aclexplode(n.nspacl) a left join pg_roles r on r.oid = a.grantee
             where n.nspname = 'livestore' and a.privilege_type = 'CREATE' and a.grantee <> n.nspowner
                 and not coalesce(r.rolsuper or r.rolname = 'livestore_owner', false)
             union all
             select 'livestore_owner may not use the schema livestore, so its functions fail: grant usage, create on schema livestore to livestore_owner'
             from pg_namespace n join pg_roles r on r.rolname = 'livestore_owner'
             where n.nspname = 'livestore' and not has_schema_privilege(r.oid, n.oid, 'usage')
             union all
             select format('%I is a member of %I, which must be nobody''s: revoke %2$I from %1$I', u.rolname, r.rolname)
             from pg_auth_members m
             join pg_roles r on r.oid = m.roleid and r.rolname in ('livestore_owner', 'livestore_hooks')
             join pg_roles u on u.oid = m.member and not u.rolsuper
             -- From Postgres 16 on, who has created a role is a member that may only grant it.
             where coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true)
                 or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
             union all
             select format('the role %I may log in, or is a superuser: alter role %1$I nologin nosuperuser', r.rolname)
             from pg_roles r
             where r.rolname in ('livestore_owner', 'livestore_hooks') and (r.rolcanlogin or r.rolsuper)
             union all
             select format('the table %s of a store does not belong to livestore_owner: select livestore._adopt_table(%L)', c.oid::regclass, c.oid::regclass)
             from pg_inherits i
             join pg_class c on c.oid = i.inhrelid
             join pg_class p on p.oid = i.inhparent and p.oid = to_regclass('livestore.eventlog_1')
             where p.relowner = to_regrole('livestore_owner') and c.relowner <> p.relowner
             union all
             -- Of the portable flavour.
             select format('code that runs as livestore_hooks has changed %s, or granted it to others: install the portable flavour again', p.oid::regprocedure)
             from pg_proc p
             join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'livestore'
             where p.proowner = to_regrole('livestore_hooks') and not (
                 p.prosecdef and 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))
                 and not exists (
                     select from aclexplode(p.proacl) a where a.grantee not in (p.proowner, to_regrole('livestore_owner'))
                 )
             )",
            &[],
        )
        .await?;
    for row in &strangers {
        report.wrong(row.get::<_, String>(0));
    }
    Ok(())
}

/// Checks the role as which hooks run, and finds the hooks that would lose rights by an update.
async fn hooks(client: &Client, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_one(
            "select o.rolname::text as owner, o.rolname = 'livestore_owner' as is_separate,
                 (
                     select string_agg(distinct p.oid::regprocedure::text, ', ')
                     from pg_trigger t
                     join pg_class c on c.oid = t.tgrelid and c.relnamespace = e.relnamespace
                     join pg_proc p on p.oid = t.tgfoid and p.pronamespace <> e.relnamespace
                     where not t.tgisinternal and not p.prosecdef and (
                         c.oid = e.oid or exists (select from pg_inherits i where i.inhrelid = c.oid and i.inhparent = e.oid)
                     )
                 ) as hooks,
                 (select extversion like any (array['0.1.%', '0.2.%']) from pg_extension where extname = 'livestore_sync') as is_old
             from pg_class e join pg_roles o on o.oid = e.relowner
             where e.oid = to_regclass('livestore.eventlog_1')",
            &[],
        )
        .await?;
    let Some(hooks) = row.get::<_, Option<String>>("hooks") else {
        return Ok(());
    };
    let owner: &str = row.get("owner");
    match (row.get("is_separate"), row.get::<_, Option<bool>>("is_old").unwrap_or(false)) {
        (true, _) => report.good(format!(
            "these hooks run as livestore_hooks, with what that role is granted: {hooks}; the others as the owners of their functions"
        )),
        (false, true) => report.advise(format!(
            "these hooks run as {owner}; from version 0.3.0 on they run as livestore_hooks, which has no rights of its own, and the update stops at them: {hooks}. Before it, \"alter function … security definer\", owned by a role of the application, or grant livestore_hooks what they need; then \"set livestore.hooks_checked = on\" and update"
        )),
        (false, false) => report.advise(format!(
            "these hooks run as {owner}, who owns the extension, and whoever may replace them can do what {owner} can: {hooks}"
        )),
    }
    Ok(())
}

/// Names triggers on other tables than event logs that run code of roles that are no superusers: with the rights of the owner of these tables, as
/// which the extension writes to them.
async fn other_triggers(client: &Client, report: &mut Report) -> Result<(), Error> {
    let triggers = client
        .query(
            "select t.tgname::text, c.oid::regclass::text, o.rolname::text, p.oid::regprocedure::text, r.rolname::text
             from pg_trigger t
             join pg_class c on c.oid = t.tgrelid
             join pg_class e on e.oid = to_regclass('livestore.eventlog_1') and e.relnamespace = c.relnamespace and e.oid <> c.oid
             join pg_roles o on o.oid = c.relowner
             join pg_proc p on p.oid = t.tgfoid and p.pronamespace <> c.relnamespace and not p.prosecdef
             join pg_roles r on r.oid = p.proowner and not r.rolsuper and r.oid <> o.oid
             where not t.tgisinternal and not exists (select from pg_inherits i where i.inhrelid = c.oid and i.inhparent = e.oid)
             order by 2, 1",
            &[],
        )
        .await?;
    for row in &triggers {
        let (trigger, table, owner): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let (function, role): (&str, &str) = (row.get(3), row.get(4));
        report.advise(format!(
            "the trigger {trigger} on {table} runs as {owner}, and {role}, who owns its function {function}, can do what {owner} can: put it on livestore.eventlog_1, where hooks run as livestore_hooks, or alter function {function} security definer"
        ));
    }
    Ok(())
}

/// Names code of roles that are no superusers which Postgres calls with the rights of the owner of the event logs, when it analyzes them or plans
/// a query. Hooks are not among it.
async fn called_code(client: &Client, report: &mut Report) -> Result<(), Error> {
    let calls = client
        .query(
            "with called as (
                 select p.oid, 'pg_proc'::regclass as classid, p.proowner as owner from pg_proc p
                 union all
                 select t.oid, 'pg_type'::regclass, t.typowner from pg_type t where t.typtype <> 'e'
                 union all
                 select o.oid, 'pg_operator'::regclass, o.oprowner from pg_operator o
                 union all
                 select c.oid, 'pg_opclass'::regclass, c.opcowner from pg_opclass c
             ), logs as (
                 select 'livestore.eventlog_1'::regclass::oid as oid
                 union all
                 select i.inhrelid from pg_inherits i where i.inhparent = 'livestore.eventlog_1'::regclass
             ), parts as (
                 select 'pg_class'::regclass as classid, i.indexrelid as oid from pg_index i join logs l on l.oid = i.indrelid
                 union all
                 select 'pg_constraint'::regclass, c.oid from pg_constraint c join logs l on l.oid = c.conrelid
                 union all
                 select 'pg_statistic_ext'::regclass, s.oid from pg_statistic_ext s join logs l on l.oid = s.stxrelid
                 union all
                 select 'pg_attrdef'::regclass, a.oid from pg_attrdef a join logs l on l.oid = a.adrelid
                 union all
                 select 'pg_policy'::regclass, p.oid from pg_policy p join logs l on l.oid = p.polrelid
                 union all
                 select 'pg_rewrite'::regclass, r.oid from pg_rewrite r join logs l on l.oid = r.ev_class
             )
             select distinct pg_describe_object(p.classid, p.oid, 0), pg_describe_object(c.classid, c.oid, 0), r.rolname::text
             from parts p
             join pg_depend d on d.classid = p.classid and d.objid = p.oid
             join called c on c.classid = d.refclassid and c.oid = d.refobjid
             join pg_roles r on r.oid = c.owner and not r.rolsuper and r.rolname <> 'livestore_owner'
             order by 1, 2",
            &[],
        )
        .await?;
    for row in &calls {
        let (part, code, owner): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        report.advise(format!(
            "the {part} calls the {code} of {owner}, and Postgres calls it as the owner of the event logs when it analyzes or plans: {owner} can read and change all events; give the {code} to a superuser"
        ));
    }
    Ok(())
}

/// Names the owner of the schema of the authorize function, who can put a function of his own in its place. For a handler,
/// `livestore._handler` refuses such an owner.
pub async fn authorize_function(client: &Client, function: &str, report: &mut Report) -> Result<(), Error> {
    let owners = client
        .query(
            "select distinct quote_ident(n.nspname), s.rolname::text, quote_ident(f.rolname)
             from pg_proc p
             join pg_roles f on f.oid = p.proowner
             join pg_namespace n on n.oid = p.pronamespace
             join pg_roles s on s.oid = n.nspowner
             where p.oid::regproc::text = $1 and not s.rolsuper and s.rolname <> 'pg_database_owner'
                 and s.oid <> (select d.datdba from pg_database d where d.datname = current_database())
                 and not pg_has_role(s.oid, f.oid, 'member')",
            &[&function],
        )
        .await?;
    for row in &owners {
        let (schema, owner, of_function): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        report.wrong(format!(
            "--authorize-function {function}: its schema belongs to {owner}, who can replace it, and then decides who reads and writes, with the rights of the sidecar: alter schema {schema} owner to {of_function}"
        ));
    }
    Ok(())
}

/// Lists the roles that have access by a membership, and those that could give it.
async fn members(client: &Client, report: &mut Report) -> Result<(), Error> {
    let groups = client
        .query(
            "select r.rolname::text, r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolbypassrls or r.rolreplication,
                 (
                     select string_agg(distinct u.rolname::text, ', ' order by u.rolname::text)
                     from pg_auth_members m join pg_roles u on u.oid = m.member
                     where m.roleid = r.oid and u.rolname not in ('livestore_writer', 'livestore_admin', 'livestore_hooks')
                         and (
                             coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true)
                             or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
                         )
                 )
             from pg_roles r where r.rolname in ('livestore_reader', 'livestore_writer', 'livestore_admin') order by 1",
            &[],
        )
        .await?;
    let mut members = Vec::new();
    for row in &groups {
        let (group, has_rights, roles): (&str, bool, Option<&str>) = (row.get(0), row.get(1), row.get(2));
        if has_rights {
            report.advise(format!(
                "the role {group} may log in, or has rights of its own, which all its members get: alter role {group} nologin nosuperuser nocreaterole nobypassrls noreplication"
            ));
        }
        if let Some(roles) = roles {
            members.push(format!("{group}: {roles}"));
        }
    }
    if !members.is_empty() {
        report.good(format!("members of roles, each of which may read or change all stores: {}", members.join("; ")));
    }
    // From Postgres 16 on, whoever has created a role may grant it. The owner of the database, who installs the portable flavour, is such a role.
    let granters = client
        .query(
            "select u.rolname::text, r.rolname::text
             from pg_auth_members m
             join pg_roles r on r.oid = m.roleid and r.rolname in ('livestore_owner', 'livestore_hooks')
             join pg_roles u on u.oid = m.member and not u.rolsuper
             where m.admin_option and u.oid <> (select d.datdba from pg_database d where d.datname = current_database())
             order by 1, 2",
            &[],
        )
        .await?;
    for row in &granters {
        let (role, granted): (&str, &str) = (row.get(0), row.get(1));
        report.advise(format!(
            "{role} may make itself a member of {granted} (ADMIN OPTION), and could then change all events: revoke {granted} from {role}"
        ));
    }
    Ok(())
}

/// Warns if the sidecar's role may connect to other databases. Roles belong to the whole cluster, so this one could push to
/// all databases that have the extension.
async fn neighbours(client: &Client, report: &mut Report) -> Result<(), Error> {
    let row = client
        .query_opt(
            "select current_user::text as role,
                 (
                     select string_agg(quote_ident(d.datname), ', ' order by d.datname)
                     from pg_database d
                     where d.datallowconn and not d.datistemplate and d.datname not in ('postgres', current_database())
                         and has_database_privilege(d.oid, 'connect')
                 ) as others
             from pg_roles r where r.rolname = current_user and not r.rolsuper",
            &[],
        )
        .await?;
    // A superuser may connect anywhere, and was told of already.
    let Some(row) = row else {
        return Ok(());
    };
    if let Some(others) = row.get::<_, Option<String>>("others") {
        let role: &str = row.get("role");
        report.advise(format!(
            "the role {role} may connect to other databases of this cluster, and push there if they have the extension: {others}; revoke connect on database {others} from public, and grant it to those who need it"
        ));
    }
    Ok(())
}
