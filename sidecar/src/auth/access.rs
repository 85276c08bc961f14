//! The stores that a token allows: rules that name a store or a prefix, for those subjects that they apply to.

use std::str::FromStr;

use serde_json::Value;

/// The actions on a store. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Read,
    Write,
    Admin,
}

/// A store, or all stores whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Name(String),
    /// Written with a `*` at the end.
    Prefix(String),
}

/// Gives stores to the holder of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    stores: Pattern,
    access: Access,
}

/// A rule of the operator for all tokens, e.g. `user-{sub}=write`: `{sub}` stands for the subject of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Rule);

/// The placeholder of the subject.
const SUBJECT: &str = "{sub}";

impl Access {
    /// As a claim has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Why a rule cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("{0:?} is not read, write or admin")]
    Access(String),
    #[error("a rule is written <store>=<access>, e.g. user-{{sub}}=write")]
    Form,
    #[error("a rule begins with the name of a store, or * for all")]
    NoStore,
    #[error("{0:?} matches no store: braces only in {SUBJECT}, for the subject, and * only at the end")]
    Pattern(String),
    #[error("it is not an object of stores and what is allowed in them")]
    Claim,
}

impl FromStr for Access {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "admin" => Ok(Self::Admin),
            _ => Err(RuleError::Access(text.into())),
        }
    }
}

impl FromStr for Template {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (stores, access) = text.trim().rsplit_once('=').ok_or(RuleError::Form)?;
        if stores.is_empty() {
            return Err(RuleError::NoStore);
        }
        // Stores may have such names, but here it is a slip of the pen: a rule that would open nothing.
        let prefix = stores.strip_suffix('*').unwrap_or(stores);
        if prefix.replace(SUBJECT, "").contains(['{', '}', '*']) {
            return Err(RuleError::Pattern(stores.into()));
        }
        Ok(Self(Rule { stores: Pattern::read(stores), access: access.parse()? }))
    }
}

impl Pattern {
    fn read(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Name(text.into()),
        }
    }

    fn matches(&self, store: &str) -> bool {
        match self {
            Self::Name(name) => store == name,
            Self::Prefix(prefix) => store.starts_with(&**prefix),
        }
    }

    /// The placeholder of the subject is taken literally in whatever it holds, a `*` too.
    fn of(&self, subject: &str) -> Self {
        match self {
            Self::Name(name) => Self::Name(name.replace(SUBJECT, subject)),
            Self::Prefix(prefix) => Self::Prefix(prefix.replace(SUBJECT, subject)),
        }
    }
}

impl Rule {
    /// The rules of a claim: an object of stores and what is allowed in each, e.g. `{"todos": "write", "public-*": "read"}`.
    pub fn of_claim(claim: &Value) -> Result<Vec<Self>, RuleError> {
        let rules = claim.as_object().ok_or(RuleError::Claim)?;
        let rule = |(stores, access): (&String, &Value)| {
            let access = access.as_str().unwrap_or_default().parse()?;
            Ok(Self { stores: Pattern::read(stores), access })
        };
        rules.iter().map(rule).collect()
    }
}

impl Template {
    /// The rule for this subject.
    pub fn of(&self, subject: &str) -> Rule {
        Rule { stores: self.0.stores.of(subject), access: self.0.access }
    }
}

/// The access that rules give to every store: those that are written `*`.
pub fn of_all_stores(rules: &[Rule]) -> Option<Access> {
    let is_for_all = |rule: &&Rule| rule.stores == Pattern::Prefix(String::new());
    rules.iter().filter(is_for_all).map(|rule| rule.access).max()
}

/// The names of stores, and the beginnings of names, that rules are about.
pub fn named<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut names, mut prefixes) = (Vec::new(), Vec::new());
    for rule in rules {
        match &rule.stores {
            Pattern::Name(name) => names.push(&**name),
            Pattern::Prefix(prefix) => prefixes.push(&**prefix),
        }
    }
    (names, prefixes)
}

/// The most that the rules allow in a store.
pub fn most<'a>(rules: impl IntoIterator<Item = &'a Rule>, store: &str) -> Option<Access> {
    rules.into_iter().filter(|rule| rule.stores.matches(store)).map(|rule| rule.access).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_most_of_all_rules_that_match_counts() {
        let rules = Rule::of_claim(&json!({"a": "write", "a*": "read", "ab*": "admin", "": "write"})).unwrap();
        for (store, access) in [
            ("a", Some(Access::Write)),
            ("aa", Some(Access::Read)),
            ("ab", Some(Access::Admin)),
            ("abc", Some(Access::Admin)),
            ("b", None),
            ("A", None),
        ] {
            assert_eq!(most(&rules, store), access, "{store}");
        }
        assert!(Access::Admin > Access::Write && Access::Write > Access::Read);
    }

    #[test]
    fn claims_and_rules_of_another_form_are_refused() {
        for claim in
            [json!(null), json!("a"), json!(["a"]), json!({"a": "own"}), json!({"a": true}), json!({"a": null})]
        {
            assert!(Rule::of_claim(&claim).is_err(), "{claim}");
        }
        assert_eq!(Rule::of_claim(&json!({})).unwrap(), []);
        for rule in [
            "",
            "a",
            "=write",
            " =write",
            "a=",
            "a=own",
            "a=Write",
            "u-{SUB}=write",
            "u-{email}=read",
            "u-{sub=read",
            "u-}=read",
            "*-a=read",
            "a*b*=read",
            "**=read",
        ] {
            assert!(rule.parse::<Template>().is_err(), "{rule}");
        }
    }

    #[test]
    fn a_store_may_have_any_name() {
        let rule = "a=b=write".parse::<Template>().unwrap().of("x");
        assert_eq!(most([&rule], "a=b"), Some(Access::Write));
        let claim = Rule::of_claim(&json!({"a*b{sub}": "write"})).unwrap();
        assert_eq!(most(&claim, "a*b{sub}"), Some(Access::Write));
    }

    #[test]
    fn rules_may_be_listed_with_blanks() {
        for rule in [" user-{sub}=write", "user-{sub}=write ", "\tuser-{sub}=write\n"] {
            assert_eq!(
                most([&rule.parse::<Template>().unwrap().of("ann")], "user-ann"),
                Some(Access::Write),
                "{rule:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_subject_is_a_name_and_never_a_pattern(subject in "[*{}sub=-]{0,9}", store in "[*{}sub=-]{0,12}") {
            let exact = "u-{sub}=read".parse::<Template>().unwrap().of(&subject);
            prop_assert_eq!(most([&exact], &store).is_some(), store == format!("u-{subject}"));
            let prefix = "u-{sub}-*=read".parse::<Template>().unwrap().of(&subject);
            prop_assert_eq!(most([&prefix], &store).is_some(), store.starts_with(&format!("u-{subject}-")));
        }
    }

    #[test]
    fn fuzz_claim() {
        fuzzing::text_target!("claim", |text| {
            let Ok(claim) = serde_json::from_str::<Value>(text) else { return };
            let known = |access: &Value| [json!("read"), json!("write"), json!("admin")].contains(access);
            let Ok(rules) = Rule::of_claim(&claim) else {
                assert!(claim.as_object().is_none_or(|rules| !rules.values().all(known)));
                return;
            };
            let claim = claim.as_object().unwrap();
            for store in claim.keys().flat_map(|store| [store.clone(), format!("{store}x"), store.replace('*', "")]) {
                let is_for = |pattern: &str| match pattern.as_bytes() {
                    [prefix @ .., b'*'] => store.as_bytes().starts_with(prefix),
                    _ => store == pattern,
                };
                let allowed: Vec<_> =
                    claim.iter().filter(|(pattern, _)| is_for(pattern)).map(|(_, access)| access).collect();
                let expected = [Access::Admin, Access::Write, Access::Read]
                    .into_iter()
                    .find(|access| allowed.contains(&&json!(access.name())));
                assert_eq!(most(&rules, &store), expected, "{store}");
            }
        });
    }

    #[test]
    fn fuzz_template() {
        fuzzing::text_target!("template", |text| {
            let (rule, subject) = text.split_once('\n').unwrap_or((text, "sub"));
            let Ok(template) = rule.parse::<Template>() else { return };
            let (stores, access) = rule.trim().rsplit_once('=').unwrap();
            assert!(!stores.is_empty() && template.0.access.name() == access);
            let rule = template.of(subject);
            let allows = |store: &str| most([&rule], store).is_some();
            let name = stores.strip_suffix('*').unwrap_or(stores).split(SUBJECT).collect::<Vec<_>>().join(subject);
            assert!(allows(&name));
            assert_eq!(allows(&format!("{name}x")), stores.ends_with('*'));
        });
    }
}
