//! An operator who has the inspector open on every sidecar: its pages, a live one, and exports, which are reads like those of clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::clients::{erased, placed};
use crate::history::{EXPORT, EXPORT_OF_STANDBY, Read, Recorder};
use crate::system::System;

/// The first number of an onlooker: those of devices and writers are smaller.
const FIRST: u32 = 30_000;

/// The time that a page may take. The inspector gives up on a database that is away before that.
const PATIENCE: Duration = Duration::from_secs(20);

const PAGES: &[&str] = &["", "/stores", "/subscriptions", "/refusals", "/store?id={}", "/clients?id={}"];

pub struct Onlookers {
    is_over: Arc<AtomicBool>,
    running: Vec<JoinHandle<Onlooker>>,
}

impl Onlookers {
    /// `stores`: the names of the stores that are looked at.
    pub fn start(system: &System, recorder: &Recorder, seed: u64, stores: Vec<String>) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let look = |place: &crate::system::Place| {
            let onlooker = Onlooker {
                sidecar: place.number,
                reads_standby: place.reads_standby(),
                url: format!("{}/inspector", place.url().replacen("ws", "http", 1)),
                http: Client::new(),
                stores: stores.clone(),
                random: ChaCha8Rng::seed_from_u64(seed ^ (1 << 50) ^ place.number as u64),
                recorder: recorder.clone(),
                unexpected: Vec::new(),
            };
            tokio::spawn(onlooker.look(Arc::clone(&is_over)))
        };
        let running = system.places.iter().map(look).collect();
        Self { is_over, running }
    }

    /// Returns the answers that the inspector should not have given. `is_calm`: all faults are over, so that nothing excuses a failure.
    pub async fn finish(self, is_calm: bool) -> Vec<String> {
        self.is_over.store(true, Ordering::SeqCst);
        let mut unexpected = Vec::new();
        for onlooker in self.running {
            let mut onlooker = onlooker.await.expect("an onlooker");
            if is_calm {
                onlooker.export_in_calm().await;
            }
            unexpected.extend(onlooker.unexpected);
        }
        unexpected
    }
}

struct Onlooker {
    sidecar: usize,
    reads_standby: bool,
    url: String,
    http: Client,
    stores: Vec<String>,
    random: ChaCha8Rng,
    recorder: Recorder,
    unexpected: Vec<String>,
}

impl Onlooker {
    async fn look(mut self, is_over: Arc<AtomicBool>) -> Self {
        let live = tokio::spawn(stay_on_a_live_page(self.http.clone(), self.url.clone()));
        while !is_over.load(Ordering::SeqCst) {
            let store = self.stores[self.random.random_range(0..self.stores.len())].clone();
            if self.random.random_bool(0.4) {
                // While there are faults, one that fails says nothing.
                let _ = timeout(PATIENCE, self.export(&store)).await;
            } else {
                let page = PAGES[self.random.random_range(0..PAGES.len())].replace("{}", &store);
                self.open(&page).await;
            }
            sleep(Duration::from_millis(self.random.random_range(100..900))).await;
        }
        live.abort();
        self
    }

    async fn export_in_calm(&mut self) {
        let store = self.stores[self.random.random_range(0..self.stores.len())].clone();
        let exported = timeout(PATIENCE, self.export(&store)).await;
        if let Err(failure) = exported.unwrap_or_else(|_| Err("it takes too long".into())) {
            self.unexpected.push(format!("sidecar {}: no export of {store}: {failure}", self.sidecar));
        }
    }

    /// A page is there, or the database is not. A store may not be there yet, or not any more.
    async fn open(&mut self, page: &str) {
        let request = self.http.get(format!("{}{page}", self.url)).header("accept", "text/html").send();
        let Ok(Ok(response)) = timeout(PATIENCE, request).await else { return };
        let status = response.status();
        let Ok(Ok(text)) = timeout(PATIENCE, response.text()).await else { return };
        let expected = [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE];
        if !expected.contains(&status) {
            self.unexpected.push(format!("sidecar {}: {page}: {status}: {text}", self.sidecar));
        }
    }

    /// # Errors
    /// There is none, or not all of it.
    async fn export(&self, store: &str) -> Result<(), String> {
        let start = self.recorder.now();
        let response = self.http.get(format!("{}/api/export?id={store}", self.url)).send().await;
        let response = response.and_then(reqwest::Response::error_for_status).map_err(|error| error.to_string())?;
        let text = response.text().await.map_err(|error| error.to_string())?;
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let mut lines = lines.map_err(|error| error.to_string())?;
        // The last line says that it is whole.
        lines.pop_if(|last| last.get("digest").is_some()).ok_or("it ends before its last line")?;
        let (client, sidecar, end) = (FIRST + self.sidecar as u32, self.sidecar, self.recorder.now());
        let dialect = if self.reads_standby { EXPORT_OF_STANDBY } else { EXPORT }.into();
        let (erased, events) = (erased(&lines), lines.iter().map(placed).collect());
        self.recorder.read(store, Read { client, dialect, sidecar, start, end, events, erased });
        Ok(())
    }
}

/// Opened again as often as it ends, as a browser does.
async fn stay_on_a_live_page(http: Client, url: String) {
    loop {
        if let Ok(mut response) = http.get(format!("{url}/live")).header("accept", "text/event-stream").send().await {
            while let Ok(Ok(Some(_))) = timeout(PATIENCE, response.chunk()).await {}
        }
        sleep(Duration::from_secs(1)).await;
    }
}
