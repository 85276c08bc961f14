//! The receivers of a page's events while they are read: the rows of a result, or one value.

use std::ffi::c_int;

use pgrx::prelude::*;
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice, varsize_any_exhdr};

/// The fields of an event, as [`super::plan::EVENTS_OF_SHARED`] selects them: seqNum, parentSeqNum, name, args, clientId, sessionId,
/// createdAt.
pub const FIELDS: usize = 7;

/// Those that are texts, whose bytes count. The others are numbers of 64 bits: `timestamptz` counts microseconds since 2000.
const IS_TEXT: [bool; FIELDS] = [false, false, true, true, true, true, false];

/// The length of a field that is null.
const NULL: i32 = -1;

/// Takes what is made of the events.
pub enum Sink {
    Rows(*mut pg_sys::Tuplestorestate),
    /// Each as COPY writes a row in its binary format.
    Packed(Vec<u8>),
}

/// Takes events until they have enough bytes. They are counted while rows arrive: to find out beforehand where a page has to end
/// takes as long as to read it.
#[repr(C)]
pub struct Receiver {
    /// Must be the first field: Postgres gets a pointer to this struct as a pointer to a `DestReceiver`.
    base: pg_sys::DestReceiver,
    sink: Sink,
    bytes: usize,
    max_bytes: usize,
}

impl Receiver {
    pub fn new(sink: Sink, max_bytes: usize) -> Self {
        let base = pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(start),
            rShutdown: Some(end),
            rDestroy: Some(end),
            mydest: pg_sys::CommandDest::DestNone,
        };
        Self { base, sink, bytes: 0, max_bytes }
    }

    pub fn into_sink(self) -> Sink {
        self.sink
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: Postgres gives back the receiver that it was given, and a row of the columns that it was asked for. Values that are not
    // null are good as long as the row is.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver>();
        if usize::try_from((*slot).tts_nvalid).is_ok_and(|valid| valid < FIELDS) {
            pg_sys::slot_getsomeattrs_int(slot, FIELDS as c_int);
        }
        let fields = (0..FIELDS).map(|field| {
            let is_null = *(*slot).tts_isnull.add(field);
            (!is_null).then(|| *(*slot).tts_values.add(field)).map(|value| (value, IS_TEXT[field]))
        });
        match &mut receiver.sink {
            Sink::Rows(rows) => {
                receiver.bytes +=
                    fields.flatten().filter(|(_, is_text)| *is_text).map(|(text, _)| length(text)).sum::<usize>();
                pg_sys::tuplestore_puttupleslot(*rows, slot);
            }
            Sink::Packed(events) => {
                events.extend_from_slice(&(FIELDS as i16).to_be_bytes());
                for field in fields {
                    match field {
                        None => events.extend_from_slice(&NULL.to_be_bytes()),
                        Some((text, true)) => receiver.bytes += put_text(events, text),
                        Some((number, false)) => put(events, &(number.value() as i64).to_be_bytes()),
                    }
                }
            }
        }
        receiver.bytes < receiver.max_bytes
    }
}

/// Appends a field behind its length.
fn put(events: &mut Vec<u8>, field: &[u8]) {
    // Postgres' values have less than 2^30 bytes.
    events.extend_from_slice(&(field.len() as i32).to_be_bytes());
    events.extend_from_slice(field);
}

/// Appends a text, and returns its length.
///
/// # Safety
///
/// The value of a column of type text or json that is not null.
unsafe fn put_text(events: &mut Vec<u8>, text: pg_sys::Datum) -> usize {
    // SAFETY: such a value points to its header, and what Postgres unpacks to one of its own.
    unsafe {
        let stored: *mut pg_sys::varlena = text.cast_mut_ptr();
        let value = if is_packed(stored) { pg_sys::pg_detoast_datum_packed(stored) } else { stored };
        let bytes = varlena_to_byte_slice(value);
        let length = bytes.len();
        put(events, bytes);
        if value != stored {
            pg_sys::pfree(value.cast());
        }
        length
    }
}

/// The length of a text, as the reader gets it. Nothing is unpacked to find out.
///
/// # Safety
///
/// As for [`put_text`].
unsafe fn length(text: pg_sys::Datum) -> usize {
    // SAFETY: such a value points to its header.
    unsafe {
        let value: *mut pg_sys::varlena = text.cast_mut_ptr();
        if is_packed(value) {
            pg_sys::toast_raw_datum_size(text).saturating_sub(pg_sys::VARHDRSZ)
        } else {
            varsize_any_exhdr(value)
        }
    }
}

/// Whether a value is compressed, or stored out of line (TOAST).
///
/// # Safety
///
/// It points to its header.
unsafe fn is_packed(value: *const pg_sys::varlena) -> bool {
    // SAFETY: as the caller says.
    unsafe { varatt_is_1b_e(value) || varatt_is_4b_c(value) }
}

unsafe extern "C-unwind" fn start(_: *mut pg_sys::DestReceiver, _: c_int, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn end(_: *mut pg_sys::DestReceiver) {}
