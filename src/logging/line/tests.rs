//! Tests of [`super`]: the shapes, exactly.

use std::time::Duration;

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
