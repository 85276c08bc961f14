
-- For sidecars of version 0.2.
grant execute on function
    livestore.push_batch(text[], text[], text[], text, text[], text[], text[]),
    livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text, text, text)
to livestore_writer;
