#!/usr/bin/env bash
# In Postgres' image, when the database is created: the extension, and the role that the sidecar logs in with. Without
# LIVESTORE_SIDECAR_PASSWORD the role has none and cannot log in until somebody gives it one (`alter role`).
set -euo pipefail

PGOPTIONS='-c client_min_messages=warning' psql -X -q -v ON_ERROR_STOP=1 -v password="${LIVESTORE_SIDECAR_PASSWORD:-}" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<- 'SQL'
	create extension livestore_sync;
	create role livestore_sidecar login in role livestore_writer password :'password';
SQL
