-- Without these, pg_dump leaves out what an extension's own tables hold.
select pg_catalog.pg_extension_config_dump('livestore.stores', '');
select pg_catalog.pg_extension_config_dump('livestore.stores_id_seq', '');
select pg_catalog.pg_extension_config_dump('livestore.eventlog_1', '');
select pg_catalog.pg_extension_config_dump('livestore.commit_keys', '');
select pg_catalog.pg_extension_config_dump('livestore.dropped_stores', '');
select pg_catalog.pg_extension_config_dump('livestore.instance', '');
select pg_catalog.pg_extension_config_dump('livestore.commits', '');
select pg_catalog.pg_extension_config_dump('livestore.commit_positions', '');
select pg_catalog.pg_extension_config_dump('livestore.relayed_events', '');
select pg_catalog.pg_extension_config_dump('livestore.subscribers', '');
select pg_catalog.pg_extension_config_dump('livestore.subscription_partitions', '');
select pg_catalog.pg_extension_config_dump('livestore.subscription_history', '');
select pg_catalog.pg_extension_config_dump('livestore.dead_letters', '');
select pg_catalog.pg_extension_config_dump('livestore.dead_letters_id_seq', '');
select pg_catalog.pg_extension_config_dump('livestore.event_types', '');
select pg_catalog.pg_extension_config_dump('livestore.found_misfits', '');
select pg_catalog.pg_extension_config_dump('livestore.rewrites', '');
