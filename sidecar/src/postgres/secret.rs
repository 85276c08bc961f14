//! Passwords and keys in statements: out of the log of Postgres, its statistics, and the list of what is running.

use tokio_postgres::{Client, Error};

/// Keeps the parameters of statements out of the log of Postgres until the transaction ends. Only a superuser may decide on this; other
/// roles depend on the settings of their server, which logs no parameters unless it logs all statements.
pub async fn hide_parameters(client: &Client) -> Result<(), Error> {
    let hide = "select set_config('log_parameter_max_length', '0', true) from pg_roles r where r.rolname = current_user and r.rolsuper";
    client.batch_execute(hide).await
}

/// Runs a statement, in a transaction, in which `%L` stands for a secret, and `%%` for a per cent sign. The secret goes as a parameter, and
/// an error does not quote it.
pub async fn run_with_secret(client: &Client, statement: &str, secret: &str) -> Result<(), Error> {
    hide_parameters(client).await?;
    client.query("select set_config('livestore.secret', $1, true)", &[&secret]).await?;
    let block = client
        .query_one(
            "select format(
                 'do $livestore$ begin
                     execute format(%L, current_setting(''livestore.secret''));
                 exception when others then
                     raise exception using errcode = sqlstate, message = sqlerrm;
                 end $livestore$',
                 $1::text
             )",
            &[&statement],
        )
        .await?;
    client.batch_execute(block.try_get(0)?).await?;
    client.batch_execute("set local livestore.secret = ''").await
}
