//! Which version and which flavour is installed.

use crate::support::one;
use livestore_tests::cluster::Database;

#[tokio::test]
async fn the_version_is_that_of_the_extension_and_the_flavour_is_native() {
    let client = Database::new().await.connect("reader").await;
    assert_eq!(one::<String>(&client, "select livestore.version()").await, env!("CARGO_PKG_VERSION"));
    assert_eq!(one::<String>(&client, "select livestore.flavour()").await, "native");
}
