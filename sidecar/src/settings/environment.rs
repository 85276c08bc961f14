//! Environment variables that look like settings and are none. A misspelled one would leave a default in force, and nobody would notice.

use clap::Command;
use strsim::jaro;

/// The beginning of the names of all settings but `DATABASE_URL`.
const PREFIX: &str = "LIVESTORE_";

/// Variables of LiveStore's own command line, of scripts, images, examples and tests of this project, and of builds of this program that have
/// more commands.
const OTHERS: [&str; 18] = [
    "LIVESTORE_APP",
    "LIVESTORE_APP_LISTEN",
    "LIVESTORE_DATA",
    "LIVESTORE_DEBIAN",
    "LIVESTORE_FAKETIME",
    "LIVESTORE_FRONT_URL",
    "LIVESTORE_LICENCES",
    "LIVESTORE_PACKAGES",
    "LIVESTORE_PORT",
    "LIVESTORE_POSTGRES_BIN",
    "LIVESTORE_PROFILE",
    "LIVESTORE_PROGRAM",
    "LIVESTORE_SCREENSHOTS",
    "LIVESTORE_SITE",
    "LIVESTORE_SYNC_AUTH_TOKEN",
    "LIVESTORE_SYNC_URL",
    "LIVESTORE_UPSTREAM",
    "LIVESTORE_URL",
];
const OF_TESTS: &str = "LIVESTORE_TEST_";

/// In the variables by which Kubernetes tells a pod of a service whose name begins with `livestore`.
const OF_SERVICES: [&str; 3] = ["SERVICE_HOST", "SERVICE_PORT", "PORT_"];

/// From this similarity on, a name is taken for a slip of the pen: clap's suggestions are bolder, and most of these names have common words.
const NEAR: f64 = 0.85;

/// A variable that no command of the program reads.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// The text for the operator, with the remedy.
    pub text: String,
    /// Whether it is like a setting. Otherwise it may belong to another program.
    pub is_misspelled: bool,
}

/// The variables of this process that have the prefix and that no command of the program reads.
pub fn unknown(program: &Command) -> Vec<Unknown> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    unknown_of(program, names)
}

fn unknown_of(program: &Command, names: impl Iterator<Item = String>) -> Vec<Unknown> {
    let mut known = Vec::new();
    add_variables(program, &mut known);
    let mut unknown: Vec<String> = names.filter(|name| is_of_settings(name) && !known.contains(name)).collect();
    unknown.sort();
    let described = unknown.into_iter().map(|name| {
        let nearest = nearest(&name, &known);
        Unknown { text: text(&name, nearest), is_misspelled: nearest.is_some() }
    });
    described.collect()
}

/// Adds the variables of a command and of those below it.
fn add_variables(command: &Command, known: &mut Vec<String>) {
    let variables = command.get_arguments().filter_map(|argument| argument.get_env());
    known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
    command.get_subcommands().for_each(|below| add_variables(below, known));
}

fn is_of_settings(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let is_of_service = rest.ends_with("_PORT") || OF_SERVICES.iter().any(|part| rest.contains(part));
    !name.starts_with(OF_TESTS) && !OTHERS.contains(&name) && !is_of_service
}

fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let stem = |name: &'_ str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let likeness = |other: &str| jaro(&stem(name), &stem(other));
    let near = known.iter().map(|other| (likeness(other), &**other)).filter(|(likeness, _)| *likeness >= NEAR);
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, other)| other)
}

fn text(name: &str, nearest: Option<&str>) -> String {
    let remedy = match nearest {
        Some(other) => format!("did you mean {other}?"),
        None => "look up the setting's name in livestore-sidecar --help".into(),
    };
    format!("the environment variable {name} is no setting of this program, and has no effect: {remedy}")
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn a_misspelled_variable_is_named_with_the_one_that_was_meant() {
        let argument = |name| Arg::new(name).long(name).env(name);
        let program = Command::new("program")
            .args(["LIVESTORE_AUTHORIZE_FUNCTION", "LIVESTORE_AUTHORIZE_URL", "LIVESTORE_ALLOW"].map(argument))
            .subcommand(Command::new("token").arg(argument("LIVESTORE_JWT_SECRET")));
        let unknown = |name: &str| unknown_of(&program, [name.to_owned()].into_iter());
        for (name, meant) in [
            ("LIVESTORE_AUTHORISE_FUNCTION", "did you mean LIVESTORE_AUTHORIZE_FUNCTION?"),
            ("LIVESTORE_AUTHORIZE_FUNC", "did you mean LIVESTORE_AUTHORIZE_FUNCTION?"),
            ("LIVESTORE_ALOW", "did you mean LIVESTORE_ALLOW?"),
            ("LIVESTORE_JWT_SECERT", "did you mean LIVESTORE_JWT_SECRET?"),
            ("LIVESTORE_COLOUR", "look up the setting's name"),
        ] {
            let texts = unknown(name);
            let [Unknown { text, is_misspelled }] = &texts[..] else { panic!("{name}: {texts:?}") };
            assert!(text.contains(name) && text.contains(meant), "{name}: {text}");
            assert_eq!(*is_misspelled, meant.starts_with("did"), "{name}");
        }
        for name in [
            "LIVESTORE_ALLOW",
            "LIVESTORE_JWT_SECRET",
            "LIVESTORE_TEST_FLAVOUR",
            "LIVESTORE_PROFILE",
            "LIVESTORE_SIDECAR_SERVICE_HOST",
            "LIVESTORE_SIDECAR_SERVICE_PORT_HTTP",
            "LIVESTORE_SIDECAR_PORT",
            "LIVESTORE_SYNC_URL",
            "LIVESTORE_PORT_8787_TCP_ADDR",
            "VITE_LIVESTORE_URL",
            "PATH",
        ] {
            assert!(unknown(name).is_empty(), "{name}");
        }
    }
}
