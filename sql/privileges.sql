-- Postgres lets everybody execute a new function. Here nobody may, except as listed.
revoke all on all functions in schema livestore from public;

grant usage on schema livestore to livestore_reader;
grant select on livestore.stores, livestore.eventlog_1, livestore.events, livestore.relayed_events to livestore_reader;
grant execute on function
    livestore.backend_id(text),
    livestore.head(text),
    livestore.hash_string(text),
    livestore.table_suffix(text),
    livestore.stream_name(text),
    livestore.pull(text, bigint, integer),
    livestore.pull_page(text, bigint, integer, integer),
    livestore.current_store_id(),
    livestore.current_payload(),
    livestore.current_headers(),
    livestore.current_claims(),
    livestore.relay_page(text, bigint, integer, integer)
to livestore_reader;

-- Nobody may insert into the tables: these functions run with the rights of their owner.
grant execute on function
    livestore.create_store(text, boolean),
    livestore.push(text, json, text),
    livestore.push_batch(text[], text[], text[], text, text[], text[], text[]),
    livestore.commit(text, text, json, text, text),
    livestore.relay_enter(interval, text),
    livestore.relay_miss(text, text[]),
    livestore.relay_renew(text, interval),
    livestore.relay_exit(text),
    livestore.relay_join(text, text[], text[]),
    livestore.relay_leave(text, text[], text[], bigint[]),
    livestore.relay_send(text, text[], text[]),
    livestore.relay_fetch(bigint),
    livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text, text, text)
to livestore_writer;

-- What empties logs is for whoever administers stores, and for a sidecar with an admin secret.
grant execute on function livestore.reset_store(text), livestore.drop_store(text) to livestore_admin;
