//! S2, as LiveStore uses it: `@livestore/sync-s2` 0.4 asks an endpoint of its own form ([`api`]), which servers built from
//! `s2-proxy-helpers` make requests of S2's REST API of ([`rest`]).
//!
//! A store is a stream, an event a record. S2 numbers records from 0 on and without gaps; here the `seq_num` of a record is
//! the event's `seqNum` less one, and the tail, where S2 will write next, is the head of the log.

pub mod api;
mod limits;
pub mod names;
mod records;
pub mod rest;
mod stream;
