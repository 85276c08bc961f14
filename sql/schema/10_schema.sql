comment on schema livestore is 'LiveStore event logs: stores, their events, and the functions that append and read';

