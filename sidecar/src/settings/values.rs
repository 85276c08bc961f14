//! The values that options take. A value with which nobody would be served is refused at once: a sidecar that starts with it looks as if it
//! worked.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// Beyond it a duration is a slip of the pen, and the clocks of this program end.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The smallest event has no fewer bytes with its names.
pub const LEAST_EVENT_BYTES: usize = 256;

/// A request of any protocol with a small event in it.
pub const LEAST_FRAME_BYTES: usize = 1000;

/// The memory that a page of a log may take while it is read.
pub const LEAST_BUFFER_BYTES: usize = 1 << 20;

/// Memory is counted in permits of semaphores, which are taken by a `u32` of them.
pub const MOST_BUFFER_BYTES: usize = u32::MAX as usize;

/// The lowest limit in bytes per second. With less, even a small event would take many seconds.
pub const LEAST_BYTES_PER_SECOND: u32 = 1000;

/// A number that is not less than this.
pub fn at_least<T>(least: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr<Err: Display> + PartialOrd + Display + Clone,
{
    move |text| {
        let value: T = text.parse().map_err(|error: T::Err| error.to_string())?;
        if value < least {
            Err(format!("it must be at least {least}: with less, no client is served"))
        } else {
            Ok(value)
        }
    }
}

/// A number that is not less than the one, nor more than the other.
pub fn between<T>(least: T, most: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr<Err: Display> + PartialOrd + Display + Clone,
{
    move |text| {
        let value = at_least(least.clone())(text)?;
        if value > most { Err(format!("it must be at most {most}")) } else { Ok(value) }
    }
}

/// The same for what happens in a second, or an hour.
pub fn rate(least: u32) -> impl Fn(&str) -> Result<NonZeroU32, String> + Clone {
    move |text| {
        let value = at_least(least.max(1))(text)?;
        NonZeroU32::new(value).ok_or_else(|| "it must be at least 1: with less, no client is served".into())
    }
}

/// An address to listen on. A name is none: it may have several.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an address and a port, such as 127.0.0.1:8787 or 0.0.0.0:8787".into())
}

/// A duration; 0 is one, too.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Err(error) => Err(format!("{error}: say 30s, 5m or 1h, for example")),
        Ok(value) if value > LONGEST => Err("it is longer than a year".into()),
        Ok(value) => Ok(value),
    }
}

/// A duration that is not longer than this.
pub fn up_to(most: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match duration(text)? {
        value if value > most => Err(format!("it must be at most {}", humantime::format_duration(most))),
        value => Ok(value),
    }
}

/// A duration that is not shorter than this.
pub fn lasting(least: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match duration(text)? {
        value if value < least => {
            let least = humantime::format_duration(least);
            Err(format!("it must be at least {least}: with less, no client is served"))
        }
        value => Ok(value),
    }
}
