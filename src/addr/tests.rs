use super::*;

fn spec(text: &str) -> ListenSpec {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_is_typed_has_one_canonical_form() {
    let long = format!("unix:{}", "p".repeat(UNIX_PATH_MAX));
    let table = [
        ("tcp:127.0.0.1:7777", "tcp:127.0.0.1:7777"),
        ("127.0.0.1:7777", "tcp:127.0.0.1:7777"),
        ("localhost:0", "tcp:localhost:0"),
        ("[::1]:7777", "tcp:[::1]:7777"),
        ("tcp:[0:0::1]:07", "tcp:[::1]:7"),
        ("tcp:[fe80::1%eth0]:7", "tcp:[fe80::1%eth0]:7"),
        ("tcp://127.0.0.1:7777/", "tcp:127.0.0.1:7777"),
        ("udp://[::1]:7", "udp:[::1]:7"),
        ("unix:///run/echod.sock", "unix:/run/echod.sock"),
        ("*:7777", "tcp:*:7777"),
        ("udp:*:7", "udp:*:7"),
        ("unix:/run/echod.sock", "unix:/run/echod.sock"),
        ("unix:relative", "unix:relative"),
        ("unix:@name", "unix:@name"),
        ("unix:a b:7", "unix:a b:7"),
        ("unix:/a\\,b", "unix:/a\\,b"),
        ("unix:/a\\b", "unix:/a\\b"),
        ("unix:/a\\\\,b", "unix:/a\\\\,b"),
        ("unixgram:/run/log", "unixgram:/run/log"),
        (&long, &long),
    ];
    for (typed, canonical) in table {
        let addr: Addr = typed
            .parse()
            .unwrap_or_else(|error| panic!("{typed}: {error}"));
        assert_eq!(addr.to_string(), canonical);
        assert_eq!(canonical.parse::<Addr>().as_ref(), Ok(&addr), "{typed}");
    }
}

#[test]
fn a_comma_in_a_path_is_part_of_the_path() {
    let Addr::Unix(UnixPath::Path(path)) = spec("unix:/a\\,b,mode=0600").addr else {
        panic!("not a path");
    };
    assert_eq!(path, PathBuf::from("/a,b"));
}

#[test]
fn a_wrong_address_is_a_usage_error_that_says_why() {
    let long = format!("unix:/{}", "p".repeat(UNIX_PATH_MAX));
    let long_abstract = format!("unix:@{}", "p".repeat(UNIX_PATH_MAX + 1));
    let table = [
        ("", "expected HOST:PORT"),
        ("7777", "expected HOST:PORT"),
        ("tcp:7777", "expected HOST:PORT"),
        ("/run/echod.sock", "unix:PATH"),
        (":7777", "host is missing"),
        ("tcp::7777", "host is missing"),
        ("localhost:", "port is a number"),
        ("localhost:65536", "port is a number"),
        ("localhost:+7", "port is a number"),
        ("localhost:-7", "port is a number"),
        (
            "localhost:no-such",
            "no tcp service no-such in /etc/services",
        ),
        (
            "udp:localhost:no-such",
            "no udp service no-such in /etc/services",
        ),
        ("[fe80::1]:7777", "say which, as in [fe80::1%eth0]"),
        ("udp:[febf::1]:7777", "say which, as in [febf::1%eth0]"),
        ("::1:7777", "in brackets"),
        ("tcp:::1:7777", "in brackets"),
        ("fe80::1%eth0:7777", "in brackets"),
        ("[::1]", "as in [::1]:7777"),
        ("[::1]7777", "as in [::1]:7777"),
        ("[127.0.0.1]:7", "as in [::1]:7777"),
        ("[fe80::1%]:7", "as in [::1]:7777"),
        ("sctp:localhost:7", "unknown scheme"),
        ("a b:7", "not a host name"),
        ("/tmp/x:7", "not a host name"),
        ("unix:", "path is empty"),
        ("unix:@", "path is empty"),
        ("unix:/run/", "names a directory"),
        ("unix:/run/..", "names a directory"),
        ("unix:/run/.", "names a directory"),
        ("unix:/a\0b", "control characters"),
        ("unix:/a\nb", "control characters"),
        (&long, "path too long"),
        (&long_abstract, "path too long"),
        ("unix:/x,mode=0600", "attributes belong to a listener"),
    ];
    for (typed, why) in table {
        let error = typed.parse::<Addr>().expect_err(typed);
        assert!(error.to_string().contains(why), "{typed}: {error}");
        assert!(!error.to_string().contains('\n'), "{typed}: {error}");
        assert_eq!(error.status(), Exit::Usage, "{typed}");
        // What only a server may be given is no advice for a client.
        let Err(error) = Addr::of_server(typed) else {
            assert!(typed.contains("//"), "{typed}");
            continue;
        };
        let error = error.to_string();
        assert!(error.contains(why) && !error.contains('*'), "{error}");
    }
    for (typed, addr) in [
        ("tcp://h:1", "tcp:h:1"),
        ("tcp://[::1]:7/", "tcp:[::1]:7"),
        ("udp://h:1", "udp:h:1"),
        ("unix:///run/e", "unix:/run/e"),
        ("unix://@e", "unix:@e"),
    ] {
        assert_eq!(Addr::of_server(typed).unwrap().to_string(), addr);
    }
    for typed in ["*:7", "udp:*:7", "h:0", "udp:h:0"] {
        assert!(Addr::of_server(typed).is_err(), "{typed}");
    }
}

#[test]
fn a_service_has_a_port_for_each_protocol_and_other_names() {
    let text = "# comment\n\necho 7/tcp\necho\t7/udp # comment ping\n\
                domain 53/tcp dns name # alias\nbad x/tcp\nwide 70000/tcp\nshort\n";
    for (name, protocol, port) in [
        ("echo", "tcp", Some(7)),
        ("echo", "udp", Some(7)),
        ("name", "tcp", Some(53)),
        ("name", "udp", None),
        ("ping", "udp", None),
        ("alias", "tcp", None),
        ("ECHO", "tcp", None),
        ("bad", "tcp", None),
        ("wide", "tcp", None),
        ("short", "tcp", None),
        ("7/tcp", "tcp", None),
    ] {
        assert_eq!(service(text, name, protocol), port, "{name}/{protocol}");
    }
}

#[test]
fn attributes_are_read_and_written_back() {
    let table = [
        (
            "127.0.0.1:7778,service=command",
            "tcp:127.0.0.1:7778,service=command",
        ),
        (
            "unix:/s,group=www-data,mode=660,user=0",
            "unix:/s,mode=0660,user=0,group=www-data",
        ),
        ("tcp:*:7,freebind,backlog=16", "tcp:*:7,backlog=16,freebind"),
        ("udp:*:7,freebind", "udp:*:7,freebind"),
        ("*:7,device=eth0,freebind", "tcp:*:7,freebind,device=eth0"),
        ("udp:*:7,device=br-1.2", "udp:*:7,device=br-1.2"),
        ("unix:@n,backlog=1", "unix:@n,backlog=1"),
        ("unixgram:/s,mode=0", "unixgram:/s,mode=0000"),
        ("unix:/s,user=a\\,b", "unix:/s,user=a\\,b"),
    ];
    for (typed, canonical) in table {
        let read = spec(typed);
        assert_eq!(read.to_string(), canonical);
        assert_eq!(spec(canonical), read, "{typed}");
    }
}

#[test]
fn a_wrong_attribute_is_a_usage_error_that_names_the_key() {
    let table = [
        ("*:7,colour=red", "colour: unknown attribute"),
        ("*:7,", ": unknown attribute"),
        ("*:7,backlog=5,backlog=5", "backlog is given twice"),
        ("*:7,freebind,freebind", "freebind is given twice"),
        ("*:7,mode=0660", "mode: only a Unix socket"),
        ("udp:*:7,user=root", "user: only a Unix socket"),
        ("*:7,group=root", "group: only a Unix socket"),
        ("unix:@n,mode=0600", "mode: an abstract socket"),
        ("unix:/s,freebind", "freebind: only for tcp"),
        ("unix:/s,device=lo", "device: only for tcp"),
        ("*:7,device=", "device: needs a value"),
        ("*:7,device=a/b", "device: expected an interface"),
        (
            "*:7,device=sixteen-letters-",
            "device: expected an interface",
        ),
        ("udp:*:7,backlog=5", "backlog: only for tcp and unix"),
        ("unix:/s,mode=0680", "mode: expected permission bits"),
        ("unix:/s,mode=1777", "mode: expected permission bits"),
        ("unix:/s,mode=+660", "mode: expected permission bits"),
        ("unix:/s,mode=rw", "mode: expected permission bits"),
        ("unix:/s,mode", "mode: needs a value"),
        ("unix:/s,user=", "user: needs a value"),
        ("*:7,service=", "service: needs a value"),
        ("*:7,freebind=1", "freebind: takes no value"),
        ("*:7,backlog=0", "backlog: expected a number"),
        ("*:7,backlog=2147483648", "backlog: expected a number"),
        ("*:7,backlog=many", "backlog: expected a number"),
    ];
    for (typed, why) in table {
        let error = typed.parse::<ListenSpec>().expect_err(typed);
        assert!(error.to_string().contains(why), "{typed}: {error}");
        assert_eq!(error.status(), Exit::Usage, "{typed}");
    }
}

#[test]
fn a_star_resolves_to_both_families_and_a_number_to_itself() {
    let resolve = |text: &str| {
        let addrs = text.parse::<Addr>().and_then(|addr| addr.resolve());
        addrs.map(|addrs| addrs.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        resolve("*:7"),
        Ok(vec!["0.0.0.0:7".to_owned(), "[::]:7".to_owned()])
    );
    assert_eq!(resolve("127.0.0.1:9"), Ok(vec!["127.0.0.1:9".to_owned()]));
    assert_eq!(resolve("udp:[::1]:9"), Ok(vec!["[::1]:9".to_owned()]));
    let error = resolve("unix:/s").expect_err("no Internet address");
    assert_eq!(error.status(), Exit::Usage);
}

#[test]
fn an_unknown_host_is_unavailable_in_the_resolvers_words() {
    // A label of 64 characters cannot be put in a DNS query (RFC 1035), so
    // this asks nobody.
    let typed = format!("{}:7", "x".repeat(64));
    let addr: Addr = typed.parse().expect("parses");
    let error = addr.resolve().expect_err("resolves");
    assert_eq!(error.status(), Exit::Unavailable);
    let text = error.to_string();
    let subject = format!("resolve tcp:{typed}: ");
    assert!(text.starts_with(&subject), "{text}");
    assert!(text.len() > subject.len(), "{text}");
}

#[test]
fn a_peer_prints_as_in_the_connection_line() {
    let peer = |text: &str| Peer::Inet(text.parse().expect("an address")).to_string();
    assert_eq!(peer("127.0.0.1:52114"), "127.0.0.1:52114");
    assert_eq!(peer("[::1]:5"), "[::1]:5");
    assert_eq!(Peer::Unix.to_string(), "unix");
}

#[test]
fn addresses_are_taken_and_printed_in_full() {
    for (typed, printed) in [
        ("127.0.0.1:7", "tcp:127.0.0.1:7"),
        ("tcp:localhost:7777", "tcp:localhost:7777"),
        ("[::1]:7", "tcp:[::1]:7"),
        ("unix:/run/e.sock", "unix:/run/e.sock"),
        ("unix:@echo", "unix:@echo"),
        ("udp:127.0.0.1:7", "udp:127.0.0.1:7"),
        ("unixgram:@echo", "unixgram:@echo"),
    ] {
        assert_eq!(typed.parse::<Target>().unwrap().to_string(), printed);
    }
}

#[test]
fn what_no_client_can_call_is_refused() {
    let long = format!("unix:/{}", "x".repeat(200));
    for typed in ["udp:*:7", "udp:h:0", "*:7", "h:0", "unix:", "h", "", &long] {
        assert!(typed.parse::<Target>().is_err(), "{typed}");
    }
}
