//! The objects that others have made of the schema's: dropping the schema drops them, too.

use tokio_postgres::Client;

/// Objects outside the schema that are dropped with it, as Postgres describes them, without parts of those that are listed. Follows the catalog as
/// `drop … cascade` does: to everything that depends on an object, and to the object of which it is a part (a view, from its rule).
pub async fn read(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "with recursive dropped(classid, objid, objsubid) as (
                 select 'pg_namespace'::regclass::oid, n.oid, 0 from pg_namespace n where n.nspname = 'livestore'
                 union
                 select 'pg_extension'::regclass::oid, e.oid, 0 from pg_extension e where e.extname = 'livestore_sync'
                 union
                 select o.*
                 from dropped d
                 cross join lateral (
                     select p.classid, p.objid, p.objsubid from pg_depend p
                     where p.refclassid = d.classid and p.refobjid = d.objid and (d.objsubid = 0 or p.refobjsubid = d.objsubid)
                     union all
                     select p.refclassid, p.refobjid, p.refobjsubid from pg_depend p
                     where p.classid = d.classid and p.objid = d.objid and p.deptype in ('i', 'e')
                 ) o
             )
             select distinct regexp_replace(pg_describe_object(d.classid, d.objid, d.objsubid), '[[:cntrl:]]', ' ', 'g')
             from dropped d
             cross join lateral pg_identify_object(d.classid, d.objid, d.objsubid) i
             where i.schema is distinct from 'livestore'
                 and (i.type, i.identity) not in (('schema', 'livestore'), ('extension', 'livestore_sync'))
                 and not exists (
                     select from dropped whole
                     where d.objsubid <> 0 and whole.classid = d.classid and whole.objid = d.objid and whole.objsubid = 0
                 )
                 and not exists (
                     select from pg_depend p
                     join dropped whole on whole.classid = p.refclassid and whole.objid = p.refobjid and whole.objsubid in (0, p.refobjsubid)
                     where p.classid = d.classid and p.objid = d.objid and p.objsubid = d.objsubid and p.deptype in ('i', 'a', 'P', 'S')
                 )
             order by 1",
            &[],
        )
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
