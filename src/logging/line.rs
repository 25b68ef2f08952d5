//! The shape of a log line, as text and as JSON: pure.
//!
//! Text is `TIME LEVEL echod[PID]: MESSAGE`; for syslogd the priority and the tag
//! stand where time and level stood, for the journal the level alone. A connection's
//! line has no message but its fields, `KEY=VALUE ...`; the fields of others repeat
//! for programs what their message tells people, and are in JSON alone. A field
//! `NAME_s` is a time in seconds, which people read as `NAME=0.8ms`. What a client or
//! a path can influence is escaped, so that one event is one line and a terminal
//! obeys none of it. JSON is one object a line; where a record brings a key the
//! line has itself (`pid` of a connection is the child's), the record's stands
//! and the line's is called `logger_KEY`. Knows no descriptor.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use log::kv::{self, VisitValue};
use log::{Level, Record};
use serde_json::Value;

use crate::config::{Facility, LogFormat};
use crate::values;

/// PIPE_BUF: what a pipe takes whole or not at all.
pub(super) const LONGEST: usize = 4096;

/// The target of the one-line-per-connection records.
const CONN: &str = "conn";

/// One event, before it has a shape.
pub(super) struct Line<'a> {
    pub at: SystemTime,
    pub pid: u32,
    pub level: Level,
    pub target: &'a str,
    pub message: String,
    pub fields: Vec<(String, Value)>,
}

impl<'a> Line<'a> {
    /// What a record says; the message of a `conn` record is always `conn`.
    pub fn of(record: &'a Record<'_>, at: SystemTime, pid: u32) -> Line<'a> {
        let mut fields = Fields(Vec::new());
        // Our visitor never fails, so only a source that does can cut this short.
        let _ = record.key_values().visit(&mut fields);
        Line {
            at,
            pid,
            level: record.level(),
            target: record.target(),
            message: match record.target() {
                CONN => CONN.to_owned(),
                _ => record.args().to_string(),
            },
            fields: fields.0,
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub format: LogFormat,
    pub header: Header,
}

/// What stands before the message, as far as the reader does not add it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Time, level and pid; in JSON they are keys.
    Own,
    /// RFC 3164's without its time: syslogd stamps lines itself.
    Syslog(Facility),
    /// The level as sd-daemon(3) has it: the journal knows all else.
    Journal,
}

impl Layout {
    /// The line, newline included.
    pub fn render(self, line: &Line<'_>) -> String {
        let mut out = String::with_capacity(256);
        let severity = severity(line.level);
        let _ = match self.header {
            Header::Own => Ok(()),
            Header::Syslog(facility) => {
                write!(out, "<{}>echod[{}]: ", facility.bits() | severity, line.pid)
            }
            Header::Journal => write!(out, "<{severity}>"),
        };
        match self.format {
            LogFormat::Text => self.text(&mut out, line),
            LogFormat::Json => out.push_str(&fitting_json(line, LONGEST - out.len() - 1)),
        }
        out.push('\n');
        out
    }

    fn text(self, out: &mut String, line: &Line<'_>) {
        if self.header == Header::Own {
            let at = humantime::format_rfc3339_millis(line.at);
            let _ = write!(out, "{at} {:<5} echod[{}]: ", line.level, line.pid);
        }
        escape_into(out, &line.message, false);
        for (key, value) in line.fields.iter().filter(|_| line.target == CONN) {
            let time = key.strip_suffix("_s").zip(value.as_f64());
            let time = time.map(|(name, s)| (name, Duration::try_from_secs_f64(s)));
            if let Some((name, Ok(time))) = time {
                let _ = write!(out, " {name}={}", values::show(time));
                continue;
            }
            let _ = write!(out, " {key}=");
            match value {
                Value::String(text) if is_bare(text) => out.push_str(text),
                Value::String(text) => {
                    out.push('"');
                    escape_into(out, text, true);
                    out.push('"');
                }
                other => out.push_str(&other.to_string()),
            }
        }
    }
}

/// syslog(3)'s severity of a level.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A value that reads back as itself without quotes.
fn is_bare(text: &str) -> bool {
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c == '"' || c.is_whitespace() || is_unsafe(c))
}

/// Ends a line, drives a terminal, or reorders what is shown.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape_into(out: &mut String, text: &str, quoted: bool) {
    for c in text.chars() {
        if is_unsafe(c) || (quoted && matches!(c, '"' | '\\')) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// The object, its strings clipped until it fits: a line cut in the middle
/// would not parse.
fn fitting_json(line: &Line<'_>, room: usize) -> String {
    let mut out = String::new();
    for clip in [usize::MAX, 1024, 256, 32] {
        out = json(line, clip);
        if out.len() <= room {
            break;
        }
    }
    out
}

fn json(line: &Line<'_>, clip: usize) -> String {
    let own = [
        (
            "ts",
            Value::from(humantime::format_rfc3339_millis(line.at).to_string()),
        ),
        (
            "level",
            Value::from(line.level.as_str().to_ascii_lowercase()),
        ),
        ("pid", Value::from(line.pid)),
        ("target", Value::from(line.target)),
        ("msg", Value::from(line.message.as_str())),
    ];
    let mut out = String::from("{");
    for (key, value) in &own {
        let taken = line.fields.iter().any(|(field, _)| field == key);
        member(
            &mut out,
            if taken { "logger_" } else { "" },
            key,
            value,
            clip,
        );
    }
    for (key, value) in &line.fields {
        member(&mut out, "", key, value, clip);
    }
    out.push('}');
    out
}

fn member(out: &mut String, prefix: &str, key: &str, value: &Value, clip: usize) {
    if out.len() > 1 {
        out.push(',');
    }
    let key = Value::from(format!("{prefix}{key}"));
    let _ = match value {
        Value::String(text) if text.len() > clip => {
            let end = text.floor_char_boundary(clip);
            write!(out, "{key}:{}", Value::from(format!("{}…", &text[..end])))
        }
        value => write!(out, "{key}:{value}"),
    };
}

/// Collects a record's key-values: numbers and booleans as they are, all
/// else as it prints.
struct Fields(Vec<(String, Value)>);

impl<'kvs> kv::VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let mut field = Field(Value::Null);
        value.visit(&mut field)?;
        self.0.push((key.as_str().to_owned(), field.0));
        Ok(())
    }
}

struct Field(Value);

impl<'v> VisitValue<'v> for Field {
    fn visit_any(&mut self, value: kv::Value) -> Result<(), kv::Error> {
        self.0 = Value::from(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = Value::from(value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = Value::from(value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = Value::from(value);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = Value::from(value);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0 = Value::from(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:00:00.123Z
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_176_000_123)
    }

    fn conn(layout: Layout) -> String {
        let values: [(&str, kv::Value); 7] = [
            ("pid", kv::Value::from(1240)),
            ("peer", kv::Value::from("127.0.0.1:52114")),
            ("listener", kv::Value::from("tcp:127.0.0.1:7777")),
            ("in", kv::Value::from(5u64)),
            ("out", kv::Value::from(5u64)),
            ("dur_s", kv::Value::from(0.0008)),
            ("end", kv::Value::from("eof")),
        ];
        let record = Record::builder()
            .level(Level::Debug)
            .target("conn")
            .args(format_args!(""))
            .key_values(&values)
            .build();
        layout.render(&Line::of(&record, noon(), 1000))
    }

    fn event(layout: Layout, message: &str, fields: &[(&str, Value)]) -> String {
        of_target("echod::daemon", layout, message, fields)
    }

    fn of_target(target: &str, layout: Layout, message: &str, fields: &[(&str, Value)]) -> String {
        layout.render(&Line {
            at: noon(),
            pid: 1240,
            level: Level::Info,
            target,
            message: message.to_owned(),
            fields: fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
        })
    }

    const TEXT: Layout = Layout {
        format: LogFormat::Text,
        header: Header::Own,
    };
    const JSON: Layout = Layout {
        format: LogFormat::Json,
        header: Header::Own,
    };

    #[test]
    fn text_is_time_level_pid_and_message_or_a_connections_fields() {
        assert_eq!(
            event(TEXT, "message", &[("key", "value".into()), ("n", 3.into())]),
            "2026-11-20T12:00:00.123Z INFO  echod[1240]: message\n"
        );
        assert_eq!(
            conn(TEXT),
            "2026-11-20T12:00:00.123Z DEBUG echod[1000]: conn pid=1240 peer=127.0.0.1:52114 \
             listener=tcp:127.0.0.1:7777 in=5 out=5 dur=0.8ms end=eof\n"
        );
    }

    #[test]
    fn syslog_gets_a_priority_and_no_timestamp() {
        let header = Header::Syslog(Facility::DAEMON);
        let text = Layout { header, ..TEXT };
        let json = Layout { header, ..JSON };
        assert_eq!(event(text, "message", &[]), "<30>echod[1240]: message\n");
        assert!(conn(text).starts_with("<31>echod[1000]: conn pid=1240 "));
        assert!(event(json, "message", &[]).starts_with("<30>echod[1240]: {\"ts\":"));
    }

    #[test]
    fn the_journal_gets_the_level_and_what_it_does_not_know() {
        let header = Header::Journal;
        let text = Layout { header, ..TEXT };
        let json = Layout { header, ..JSON };
        assert_eq!(event(text, "a\nb", &[]), "<6>a\\nb\n");
        assert!(conn(text).starts_with("<7>conn pid=1240 "));
        assert!(event(json, "message", &[]).starts_with("<6>{\"ts\":"));
    }

    #[test]
    fn json_is_one_object_with_numbers_as_numbers() {
        assert_eq!(
            event(JSON, "a \"b\"\n", &[("key", "value".into())]),
            "{\"ts\":\"2026-11-20T12:00:00.123Z\",\"level\":\"info\",\"pid\":1240,\
             \"target\":\"echod::daemon\",\"msg\":\"a \\\"b\\\"\\n\",\"key\":\"value\"}\n"
        );
        assert_eq!(
            conn(JSON),
            "{\"ts\":\"2026-11-20T12:00:00.123Z\",\"level\":\"debug\",\"logger_pid\":1000,\
             \"target\":\"conn\",\"msg\":\"conn\",\"pid\":1240,\"peer\":\"127.0.0.1:52114\",\
             \"listener\":\"tcp:127.0.0.1:7777\",\"in\":5,\"out\":5,\"dur_s\":0.0008,\
             \"end\":\"eof\"}\n"
        );
    }

    #[test]
    fn nothing_can_be_smuggled_into_a_text_line() {
        let fields = [
            ("path", Value::from("a b")),
            ("quote", "x\"\\y z".into()),
            ("esc", "\u{1b}[2J".into()),
            ("rtl", "\u{202e}".into()),
            ("empty", "".into()),
        ];
        assert_eq!(
            of_target("conn", TEXT, "one\ntwo\r\u{7f}\u{9b}", &fields),
            "2026-11-20T12:00:00.123Z INFO  echod[1240]: one\\ntwo\\r\\u{7f}\\u{9b} \
             path=\"a b\" quote=\"x\\\"\\\\y z\" esc=\"\\u{1b}[2J\" rtl=\"\\u{202e}\" empty=\"\"\n"
        );
    }

    #[test]
    fn a_long_json_line_is_clipped_and_still_parses() {
        let line = event(JSON, &"é".repeat(5000), &[("key", "value".into())]);
        assert!(line.len() <= LONGEST);
        let object: Value = serde_json::from_str(&line).expect("it parses");
        assert!(object["msg"].as_str().is_some_and(|m| m.ends_with("é…")));
        assert_eq!(object["key"], "value");
    }
}
