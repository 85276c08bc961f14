-- extension/rules/src/validation.rs in SQL.
create or replace function livestore._read_batch(batch text)
returns table (
    name text, args text, seq_num bigint, parent_seq_num bigint, client_id text, session_id text, unreadable text, flaw text
)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    element text;
    elements text[];
    field record;
begin
    begin
        elements := array(
            select livestore._show_escapes(e.value::text)
            from json_array_elements(livestore._hide_escapes(batch::json)::json) with ordinality e(value, n) order by e.n
        );
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        unreadable := 'not a JSON array of events';
        return next;
        return;
    end;
    foreach element in array elements loop
        if left(element, 1) <> '{' then
            unreadable := 'an event must be a JSON object';
            return next;
            return;
        end if;
        select count(*) filter (where f.name is null) as undecoded,
            count(*) filter (where f.name in ('name', 'seqNum', 'parentSeqNum', 'clientId', 'sessionId')) as wanted,
            count(*) filter (where f.name = 'args') as args_count,
            min(f.value) filter (where f.name = 'args') as args,
            min(f.value) filter (where f.name = 'name') as name,
            min(f.value) filter (where f.name = 'clientId') as client_id,
            min(f.value) filter (where f.name = 'sessionId') as session_id,
            min(f.value) filter (where f.name = 'seqNum') as seq_num,
            min(f.value) filter (where f.name = 'parentSeqNum') as parent_seq_num
        into field
        from livestore._json_fields(element) f;
        args := field.args;
        name := livestore._decode_string(field.name);
        client_id := livestore._decode_string(field.client_id);
        session_id := livestore._decode_string(field.session_id);
        seq_num := livestore._decode_integer(field.seq_num);
        parent_seq_num := livestore._decode_integer(field.parent_seq_num);
        -- One of each, since there are five and none is missing.
        if field.undecoded > 0 or field.wanted <> 5 or field.args_count > 1
            or num_nulls(name, client_id, session_id, seq_num, parent_seq_num) > 0
        then
            unreadable := 'not an event, which has name, clientId and sessionId (strings), seqNum and parentSeqNum (integers), each once, and args at most once';
            return next;
            return;
        end if;
        flaw := case
            when livestore._has_nul(field.name) then 'name'
            when livestore._has_nul(field.client_id) then 'clientId'
            when livestore._has_nul(field.session_id) then 'sessionId'
        end || ' contains the character U+0000, which Postgres cannot store in a text';
        if flaw is null and livestore._nests_deeper(args, 512) then
            flaw := 'args nests deeper than 512 levels';
        end if;
        return next;
    end loop;
end
$$;

comment on function livestore._read_batch(text) is
'Internal: the events of a batch, of whatever form, up to the first that cannot be read. unreadable: why not; flaw: what is wrong with an event that could be read';

create or replace function livestore._decode_integer(value text)
returns bigint
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Digits only. -0 is refused: JSON has it only as a floating-point number.
    if value ~ '^(0|-?[1-9][0-9]{0,18})$' and value::numeric between -9223372036854775808 and 9223372036854775807 then
        return value::bigint;
    end if;
    return null;
end
$$;

comment on function livestore._decode_integer(text) is 'Internal: the integer that a JSON value is; null for another one';

-- Clients usually write events without white space or unknown fields. Such batches are all read by one statement. A batch has
-- this form if its length is exactly that of the fields that were found. Other batches are read one by one.
create or replace function livestore._read_batches(
    batches text[],
    out pushes integer[], out names text[], out args text[], out seq_nums bigint[], out parent_seq_nums bigint[],
    out client_ids text[], out session_ids text[], out unreadable text[], out flaws text[]
)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    sizes integer[];
    lengths integer[];
    others integer[];
    event integer := 1;
    event_count integer;
    rest integer;
begin
    begin
        -- 61: the bytes of the names of the fields, of the punctuation, and of the comma behind the event.
        select array_agg(e.push), array_agg(btrim(e.name, '"')),
            array_agg(case when strpos(e.args, chr(57344)) = 0 then e.args else livestore._show_escapes(e.args) end),
            array_agg(case when e.are_numbers then e.seq_num::bigint end),
            array_agg(case when e.are_numbers then e.parent_seq_num::bigint end),
            array_agg(btrim(e.client_id, '"')), array_agg(btrim(e.session_id, '"')),
            array_agg(case when e.are_numbers and strpos(e.texts, chr(57344)) = 0
                and left(e.name, 1) = '"' and left(e.client_id, 1) = '"' and left(e.session_id, 1) = '"'
                and (e.args is null or octet_length(e.args) <= 1024 or not livestore._nests_deeper(e.args, 512))
            then
                octet_length(e.texts) + octet_length(e.seq_num) + octet_length(e.parent_seq_num) + 61
                    + coalesce(octet_length(e.args) + 8, 0)
            end),
            array_agg(e.length)
        into pushes, names, args, seq_nums, parent_seq_nums, client_ids, session_ids, sizes, lengths
        from (
            select r.push, r.name, r.args, r.seq_num, r.parent_seq_num, r.client_id, r.session_id, r.length,
                r.name || r.client_id || r.session_id as texts,
                translate(r.seq_num || r.parent_seq_num, '0123456789', '') = ''
                    and octet_length(r.seq_num) < 19 and octet_length(r.parent_seq_num) < 19 as are_numbers
            from (
                select b.push::integer as push, octet_length(b.batch) as length, f.name::text as name, f.args::text as args,
                    f."seqNum"::text as seq_num, f."parentSeqNum"::text as parent_seq_num,
                    f."clientId"::text as client_id, f."sessionId"::text as session_id
                from (
                    select p.push, case when strpos(p.batch, chr(92)) = 0 and strpos(p.batch, chr(57344)) = 0 then p.batch
                        else livestore._hide_escapes(p.batch::json) end as batch
                    from unnest(batches) with ordinality p(batch, push)
                    offset 0
                ) b
                cross join lateral json_to_recordset(b.batch::json)
                    f(name json, args json, "seqNum" json, "parentSeqNum" json, "clientId" json, "sessionId" json)
                offset 0
            ) r
            offset 0
        ) e;
        event_count := coalesce(cardinality(pushes), 0);
        for push in 1..cardinality(batches) loop
            if event <= event_count and pushes[event] = push then
                rest := lengths[event] - 1;
                while event <= event_count and pushes[event] = push loop
                    rest := rest - sizes[event];
                    event := event + 1;
                end loop;
            else
                rest := case when batches[push] = '[]' then 0 end;
            end if;
            if rest is distinct from 0 then
                others := others || push;
            end if;
        end loop;
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        pushes := null;
        others := array(select p.push from generate_series(1, cardinality(batches)) p(push));
    end;
    if others is null then
        return;
    end if;
    select array_agg(e.push), array_agg(e.name), array_agg(e.args), array_agg(e.seq_num), array_agg(e.parent_seq_num),
        array_agg(e.client_id), array_agg(e.session_id), array_agg(e.unreadable), array_agg(e.flaw)
    into pushes, names, args, seq_nums, parent_seq_nums, client_ids, session_ids, unreadable, flaws
    from (
        select p.*, null::text as unreadable, null::text as flaw
        from unnest(pushes, names, args, seq_nums, parent_seq_nums, client_ids, session_ids)
            with ordinality p(push, name, args, seq_num, parent_seq_num, client_id, session_id, n)
        where p.push <> all (others)
        union all
        select o.push, r.name, r.args, r.seq_num, r.parent_seq_num, r.client_id, r.session_id, r.n, r.unreadable, r.flaw
        from unnest(others) o(push)
        cross join lateral livestore._read_batch(coalesce(batches[o.push], ''))
            with ordinality r(name, args, seq_num, parent_seq_num, client_id, session_id, unreadable, flaw, n)
        order by 1, n
    ) e;
end
$$;

comment on function livestore._read_batches(text[]) is
'Internal: the events of batches as arrays with one element for each, in their order; pushes: the place of the batch. As livestore._read_batch reads them';
