//! The extension, by itself: the promises of its SQL interface.

mod agreement;
mod catalog;
mod commit;
mod commit_log;
mod concurrency;
mod context;
mod differential;
mod dump;
mod fields;
mod flavours;
mod hooks;
mod hostile_arguments;
mod import;
mod notify;
mod own_table_hooks;
mod ownership;
mod privileges;
mod push;
mod push_batch;
mod read;
mod read_all;
mod settings;
mod stores;
mod subscriptions;
mod support;
mod upgrade;
