//! The inspector over HTTP. `inspector_browsers` looks at it in browsers.

mod access;
mod forms;
mod pages;

use livestore_tests::cluster::Database;
use livestore_tests::sidecar::Sidecar;
use reqwest::header::SET_COOKIE;
use reqwest::{Client, Response};

const SECRET: &str = "a secret for the inspector";

/// Asks as a browser does that shows a page of this origin.
struct Visitor {
    client: Client,
    url: String,
    cookie: Option<String>,
}

impl Visitor {
    fn of(sidecar: &Sidecar) -> Self {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, url: sidecar.http_url(), cookie: None }
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.client.get(format!("{}{path}", self.url)).header("accept", "text/html");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.get_with(path, &[]).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn post_from(&self, origin: &str, path: &str, form: &[(&str, &str)]) -> Response {
        let mut request = self.client.post(format!("{}{path}", self.url)).form(form);
        if !origin.is_empty() {
            request = request.header("origin", origin);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        request.send().await.unwrap()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let response = self.post_from(&self.url, path, form).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Logs in; the answer is the text of the page if that fails.
    async fn log_in(&mut self, key: &str) -> Result<(), String> {
        let response = self.post_from(&self.url.clone(), "/inspector/login", &[("key", key)]).await;
        match response.headers().get(SET_COOKIE) {
            Some(cookie) => {
                let cookie = cookie.to_str().unwrap();
                assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
                self.cookie = Some(cookie.split(';').next().unwrap().into());
                assert_eq!(response.status(), 303);
                Ok(())
            }
            None => Err(response.text().await.unwrap()),
        }
    }
}

/// The log of a store, as forms that change it name it.
async fn life(database: &Database, store: &str) -> String {
    database.admin().await.query_one("select livestore.backend_id($1)", &[&store]).await.unwrap().get(0)
}

async fn head(database: &Database, store: &str) -> i64 {
    database.admin().await.query_one("select livestore.head($1)", &[&store]).await.unwrap().get(0)
}
