//! The version and the flavour that are installed.

use crate::support::one;
use livestore_tests::cluster::Database;
use livestore_tests::flavour::Flavour;

#[tokio::test]
async fn the_version_and_the_flavour_are_those_that_were_installed() {
    let client = Database::new().await.connect("reader").await;
    assert_eq!(one::<String>(&client, "select livestore.version()").await, env!("CARGO_PKG_VERSION"));
    assert_eq!(one::<String>(&client, "select livestore.flavour()").await, Flavour::of_tests().name());
}
