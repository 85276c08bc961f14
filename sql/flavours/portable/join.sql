-- Makes the current role a member of livestore_owner and livestore_hooks until the end of this script: without superuser, a
-- role can only give objects to roles of which it is a member.
do $$
declare
    options constant text := case when current_setting('server_version_num')::integer >= 160000 then ' with inherit true, set true' else '' end;
    role_name text;
begin
    if (select r.rolsuper from pg_roles r where r.rolname = current_user) then
        return;
    end if;
    foreach role_name in array array['livestore_owner', 'livestore_hooks'] loop
        if not pg_has_role(role_name::name, 'usage'::text) then
            execute format('grant %I to %I%s', role_name, current_user, options);
            perform set_config('livestore.joined_' || role_name, 'on', true);
        end if;
    end loop;
exception when insufficient_privilege then
    raise exception 'the role % may not become a member of livestore_owner and livestore_hooks', current_user
        using errcode = 'insufficient_privilege',
            hint = format('Install with a role that has CREATEROLE and that created these roles, or let their administrator run: grant livestore_owner, livestore_hooks to %I; and revoke both afterwards.', current_user);
end
$$;
