//! Every dialect, spoken by its npm clients and by hand.

mod cf_0_3;
mod cf_0_3_faults;
mod client;
mod effect4;
mod electric;
mod electric_shape;
mod electric_shape_http;
mod electric_upstream;
mod endpoints;
mod faults;
mod livestore;
mod outages;
mod relay;
mod relay_auth;
mod relay_faults;
mod relay_sidecars;
mod relay_store;
mod rpc_bad_input;
mod rpc_forms;
mod rpc_http;
mod rpc_replay;
mod s2;
mod s2_rest;
mod shared_store;
mod unreadable;
mod web;
