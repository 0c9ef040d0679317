//! What is said on standard error, and how.
//!
//! The program's own messages have the target [`TOLD`] and are sentences; what
//! the library traces comes with `-v`.

use std::fmt;
use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The target of messages for people.
pub const TOLD: &str = "cli";

/// The form of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Sentences.
    Text,
    /// An object a line.
    Json,
}

/// Has messages written to standard error from now on.
pub fn start(quiet: bool, verbose: u8, format: Format) {
    let (own, library) = match (quiet, verbose) {
        (true, _) => (LevelFilter::ERROR, LevelFilter::OFF),
        (_, 0) => (LevelFilter::INFO, LevelFilter::OFF),
        (_, 1) => (LevelFilter::DEBUG, LevelFilter::INFO),
        (_, 2) => (LevelFilter::TRACE, LevelFilter::DEBUG),
        (_, _) => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    let targets = Targets::new().with_target(TOLD, own).with_target("evermux", library);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Standard error may be closed, as in the background: that is no reason
        // to end.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(targets);
    match format {
        Format::Text => {
            // ssh puts the terminal into raw mode, where a new line does not
            // return to the left edge by itself.
            let end = if std::io::stderr().is_terminal() { "\r\n" } else { "\n" };
            registry.with(layer.event_format(Sentences { end })).init();
        }
        Format::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
}

/// `evermux: what happened`.
struct Sentences {
    end: &'static str,
}

impl<S, N> FormatEvent<S, N> for Sentences
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let told = metadata.target() == TOLD;
        writer.write_str("evermux: ")?;
        if told && *metadata.level() == Level::ERROR {
            writer.write_str("error: ")?;
        }
        if !told {
            write!(writer, "[{} {}] ", metadata.level(), metadata.target())?;
        }
        // The fields of a sentence are for machines.
        event.record(&mut Words { writer: &mut writer, fields: !told });
        writer.write_str(self.end)
    }
}

struct Words<'a, 'w> {
    writer: &'a mut Writer<'w>,
    fields: bool,
}

impl Visit for Words<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.writer, "{value:?}"),
            name if self.fields => write!(self.writer, " {name}={value:?}"),
            _ => Ok(()),
        };
    }
}
