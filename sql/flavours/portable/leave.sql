-- The memberships that flavours/portable/join.sql has taken.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['livestore_owner', 'livestore_hooks'] loop
        if current_setting('livestore.joined_' || role_name, true) = 'on' then
            execute format('revoke %I from %I', role_name, current_user);
            perform set_config('livestore.joined_' || role_name, '', true);
        end if;
    end loop;
end
$$;
