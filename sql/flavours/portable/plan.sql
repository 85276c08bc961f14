-- extension/rules/src/plan.rs in SQL: the rules of a log. places and received have one element for each push: the index of
-- its store, and the backend id that the client sent. stores, heads and backend_ids have one for each store. The other arrays
-- have one for each event (livestore._read_batches).
create or replace function livestore._plan(
    places integer[], received text[], stores bigint[], heads bigint[], backend_ids text[],
    pushes integer[], names text[], args text[], seq_nums bigint[], parent_seq_nums bigint[], client_ids text[], session_ids text[],
    unreadable text[], flaws text[],
    out new_heads bigint[], out events integer[], out heads_after bigint[], out appended integer[],
    out sqlstates text[], out messages text[], out details text[], out is_new boolean[]
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    event integer := 1;
    first_event integer;
    place integer;
    head bigint;
    following bigint;
    repeated integer;
    known integer;
    planned integer;
    low integer;
    high integer;
    stored boolean[];
    -- For each push: its first and its last new event.
    firsts integer[];
    lasts integer[];
    has_gap boolean;
    reason text;
    wrong integer;
    max_ahead bigint;
    last_gap constant bigint := 4503599627370495;
    count constant integer := cardinality(places);
    event_count constant integer := coalesce(cardinality(pushes), 0);
begin
    new_heads := heads;
    events := array_fill(0, array[cardinality(heads)]);
    heads_after := array_fill(null::bigint, array[count]);
    appended := array_fill(0, array[count]);
    is_new := array_fill(false, array[event_count]);
    firsts := array_fill(null::integer, array[count]);
    lasts := firsts;
    for push in 1..count loop
        first_event := event;
        following := null;
        reason := null;
        has_gap := false;
        while event <= event_count and pushes[event] = push loop
            if reason is null then
                if unreadable[event] is not null then
                    reason := unreadable[event];
                elsif parent_seq_nums[event] < 0 then
                    reason := format('parentSeqNum %s is negative', parent_seq_nums[event]);
                elsif seq_nums[event] <= parent_seq_nums[event] then
                    reason := format('seqNum %s must be greater than its parentSeqNum %s', seq_nums[event], parent_seq_nums[event]);
                elsif seq_nums[event] > 9007199254740991 then
                    reason := format(
                        'seqNum %s is greater than 9007199254740991, the last that clients can count to; a log that has reached it takes no more events until livestore.reset_store empties it',
                        seq_nums[event]
                    );
                elsif parent_seq_nums[event] <> following then
                    reason := format('parentSeqNum %s must be the seqNum of the event before it, %s', parent_seq_nums[event], following);
                elsif flaws[event] is not null then
                    reason := flaws[event];
                else
                    following := seq_nums[event];
                    has_gap := has_gap or following > parent_seq_nums[event] + 1;
                end if;
                wrong := event - first_event;
            end if;
            event := event + 1;
        end loop;
        place := places[push];
        continue when place is null;
        head := new_heads[place];
        if reason is null and received[push] <> backend_ids[place] then
            sqlstates[push] := 'LS002';
            messages[push] := format('the backend id is %s, not %s', backend_ids[place], received[push]);
            details[push] := format('{"expected":%s,"received":%s}', to_json(backend_ids[place]), to_json(received[push]));
            continue;
        end if;
        if reason is null and event = first_event then
            heads_after[push] := head;
            continue;
        end if;
        repeated := 0;
        planned := null;
        if reason is null and seq_nums[first_event] <= head then
            -- Events that the log had before are compared by one statement for all pushes.
            if stored is null then
                stored := array_fill(false, array[event_count]);
                foreach known in array array(
                    select e.n
                    from unnest(pushes, seq_nums, parent_seq_nums, names, args, client_ids, session_ids)
                        with ordinality e(push, seq_num, parent_seq_num, name, args, client_id, session_id, n)
                    -- Each once, even if many pushes name it.
                    cross join (
                        select array_agg(w.store) as numbers, array_agg(w.seq_num) as positions
                        from (
                            select distinct stores[places[w.push]] as store, w.seq_num
                            from unnest(pushes, seq_nums) w(push, seq_num)
                            where w.seq_num <= heads[places[w.push]]
                        ) w
                    ) w
                    join lateral livestore._stored_events(w.numbers, w.positions) s
                        on s.store = stores[places[e.push]] and s."seqNum" = e.seq_num
                    where (s."parentSeqNum", s.name, s.args::text, s."clientId", s."sessionId")
                        is not distinct from (e.parent_seq_num, e.name, e.args, e.client_id, e.session_id)
                        or livestore._was_rewritten(
                            s.store, s."seqNum", e.parent_seq_num, e.name, e.args, e.client_id, e.session_id
                        )
                ) loop
                    stored[known] := true;
                end loop;
            end if;
            while first_event + repeated < event and seq_nums[first_event + repeated] <= head loop
                known := first_event + repeated;
                exit when seq_nums[known] <= heads[place] and not stored[known];
                if seq_nums[known] > heads[place] then
                    -- One that an earlier push of the group brings: most often the one behind the last that was found.
                    planned := planned + 1;
                    if (is_new[planned] and seq_nums[planned] = seq_nums[known] and places[pushes[planned]] = place) is not true then
                        planned := null;
                        for earlier in reverse push - 1..1 loop
                            continue when places[earlier] is distinct from place;
                            low := firsts[earlier];
                            high := lasts[earlier];
                            continue when (seq_nums[known] between seq_nums[low] and seq_nums[high]) is not true;
                            while low < high loop
                                if seq_nums[(low + high) / 2] < seq_nums[known] then
                                    low := (low + high) / 2 + 1;
                                else
                                    high := (low + high) / 2;
                                end if;
                            end loop;
                            planned := case when seq_nums[low] = seq_nums[known] then low end;
                            exit;
                        end loop;
                    end if;
                    exit when planned is null or (
                        parent_seq_nums[planned], names[planned], args[planned], client_ids[planned], session_ids[planned]
                    ) is distinct from (
                        parent_seq_nums[known], names[known], args[known], client_ids[known], session_ids[known]
                    );
                end if;
                repeated := repeated + 1;
            end loop;
        end if;
        if reason is null and first_event + repeated < event and parent_seq_nums[first_event + repeated] <> head then
            sqlstates[push] := 'LS001';
            messages[push] := format('the batch builds on event %s, but the head of the log is %s', parent_seq_nums[first_event], head);
            details[push] := format('{"minimumExpectedNum":%s,"providedNum":%s}', head, parent_seq_nums[first_event]);
            continue;
        end if;
        if reason is null and has_gap then
            for jump in first_event + repeated..event - 1 loop
                if seq_nums[jump] > parent_seq_nums[jump] + 1 then
                    max_ahead := coalesce(max_ahead, (select i.max_ahead from livestore.instance i order by i.created_at limit 1), 2147483648);
                    wrong := jump - first_event;
                    if seq_nums[jump] - head > max_ahead then
                        reason := format('seqNum %s is more than %s ahead of the head of the log, %s', seq_nums[jump], max_ahead, head);
                    elsif seq_nums[jump] > last_gap then
                        reason := format(
                            'seqNum %s leaves no room: beyond %s every event must directly follow its parent', seq_nums[jump], last_gap
                        );
                    end if;
                    exit when reason is not null;
                end if;
            end loop;
        end if;
        if reason is not null then
            wrong := case when reason <> 'not a JSON array of events' then wrong end;
            sqlstates[push] := 'LS003';
            messages[push] := case when wrong is null then 'invalid batch: ' else format('invalid event %s: ', wrong) end || reason;
            details[push] := format('{"index":%s,"reason":%s}', coalesce(wrong::text, 'null'), to_json(reason));
            continue;
        end if;
        for fresh in first_event + repeated..event - 1 loop
            is_new[fresh] := true;
        end loop;
        appended[push] := event - first_event - repeated;
        if appended[push] > 0 then
            firsts[push] := first_event + repeated;
            lasts[push] := event - 1;
            head := following;
        end if;
        new_heads[place] := head;
        events[place] := events[place] + appended[push];
        heads_after[push] := head;
    end loop;
end
$$;

comment on function livestore._plan(integer[], text[], bigint[], bigint[], text[], integer[], text[], text[], bigint[], bigint[], text[], text[], text[], text[]) is
'Internal: decides on pushes. new_heads and events: the head of each store afterwards, and how many events are new; heads_after, appended, sqlstates, messages and details: the verdict on each push; is_new: which events to insert. A push whose place is null is left out';
