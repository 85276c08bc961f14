//! Checks of publications: what others replicate from the event logs.

use tokio_postgres::{Client, Error};

use super::Report;

/// Adds what there is to say of publications.
pub async fn look(client: &Client, report: &mut Report) -> Result<(), Error> {
    let present = client.query_one("select to_regclass('livestore.eventlog_1') is not null", &[]).await?;
    if !present.get::<_, bool>(0) {
        return Ok(());
    }
    let missing = "select format(
             'the publication %I does not have the dedicated table %s: its subscribers lack these events; alter publication %1$I add table %2$s',
             p.pubname, c.oid::regclass)
         from pg_publication p
         join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = 'livestore.eventlog_1'::regclass
         join pg_inherits i on i.inhparent = r.prrelid
         join pg_class c on c.oid = i.inhrelid
         where not exists (select from pg_publication_rel o where o.prpubid = p.oid and o.prrelid = c.oid)
         order by 1";
    for row in client.query(missing, &[]).await? {
        report.wrong(row.get::<_, &str>(0));
    }
    let secret = "select format(
             'the publication %I sends livestore.instance, which has the secrets of this database: publish livestore.eventlog_1 and livestore.store_names instead',
             p.pubname)
         from pg_publication_tables p where p.schemaname = 'livestore' and p.tablename = 'instance'
         order by 1";
    for row in client.query(secret, &[]).await? {
        report.advise(row.get::<_, &str>(0));
    }
    Ok(())
}
