//! Clients that push again as soon as they are answered, whatever the answer is: as many pushes as their connections allow.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::clients::{Answer, Clients, Transport};
use super::results::{
    LONGEST_ACKNOWLEDGED_MS, MORE_MEMORY_MIB, Times, Window, is_acknowledged, is_refused, mib, times,
};
use crate::systems::Ours;
use crate::works::say;

/// More than wait for a commit at a time: the others are refused, again and again.
const CONNECTIONS: usize = 2_000;

const TIME: Duration = Duration::from_secs(15);

#[derive(Debug, Serialize)]
pub struct FullSpeed {
    transport: Transport,
    connections: usize,
    acknowledged: Times,
    refused: Times,
    /// With all connections open.
    memory_before_mib: f64,
    memory_peak_mib: f64,
}

impl FullSpeed {
    /// On a sidecar of its own, whose memory nothing else has used. Returns all answers, too.
    pub async fn run(ours: &Ours, transport: Transport, stores: &'static str) -> (Self, Vec<Answer>) {
        say(format!("{CONNECTIONS} connections ({transport:?}) at full speed for {TIME:?}"));
        let sidecar = Ours::sidecar(&ours.database).await;
        let clients = Clients::new(sidecar.port(), transport, stores);
        clients.open(CONNECTIONS).await;
        let before = sidecar.memory();
        let start = Instant::now();
        clients.push_in_turn(CONNECTIONS, TIME).await;
        let (all, window) = (clients.take_answers(), Window { start, end: start + TIME });
        let result = Self {
            transport,
            connections: clients.connections(),
            acknowledged: times(window.of(&all).filter(is_acknowledged), window),
            refused: times(window.of(&all).filter(is_refused), window),
            memory_before_mib: mib(before),
            memory_peak_mib: mib(sidecar.peak_memory()),
        };
        (result, all)
    }

    /// Prints the result, and returns whether it is good.
    pub fn report(&self) -> bool {
        let Self { transport, connections, acknowledged, refused, memory_before_mib, memory_peak_mib } = self;
        println!("full speed, {transport:?}, {connections} connections");
        println!("  acknowledged {acknowledged}");
        println!("  refused {refused}");
        println!("  memory {memory_before_mib:.0} MiB before, {memory_peak_mib:.0} MiB at most");
        // Over the WebSocket pushes wait for room instead: a client that is refused there would not push again.
        let is_refused = refused.a_second > 0.0;
        is_refused == matches!(transport, Transport::Http)
            && acknowledged.longest < LONGEST_ACKNOWLEDGED_MS
            && *memory_peak_mib < memory_before_mib + MORE_MEMORY_MIB
    }
}
