//! The decisions of `scripts/soak.sh`: which loss is explained by which kill.
//! The soak itself takes too long for a test.

use crate::common::explain::{Death, Loss, unexplained};

fn loss(at: f64, client: &str) -> Loss {
    Loss {
        at,
        kind: "reset".to_owned(),
        client: client.to_owned(),
    }
}

fn death(at: f64, client: Option<&str>) -> Death {
    Death {
        at,
        client: client.map(str::to_owned),
    }
}

#[test]
fn a_loss_is_explained_once_and_only_by_its_own_death() {
    let a = "127.0.0.1:1000";
    let b = "127.0.0.1:2000";
    let both = [loss(5.0, a), loss(6.0, b)];
    let table: &[(&[Loss], &[Death], usize)] = &[
        (&[], &[], 0),
        (&both, &[], 2),
        (&both, &[death(5.1, Some(a))], 1),
        (&both, &[death(5.1, Some(a)), death(6.1, Some(b))], 0),
        // The same port much later is another client.
        (&both, &[death(100.0, Some(a)), death(6.1, Some(b))], 1),
        // One death, two losses on the same port.
        (&[loss(5.0, a), loss(5.5, a)], &[death(5.1, Some(a))], 1),
        // Who died without a name explains one, whoever it was.
        (&both, &[death(5.1, None)], 1),
        (&both, &[death(5.1, None), death(5.1, Some(b))], 0),
        (&both, &[death(5.1, None), death(90.0, None)], 1),
    ];
    for (losses, deaths, expected) in table {
        let left = unexplained(losses, deaths);
        assert_eq!(left.len(), *expected, "{losses:?} {deaths:?}");
    }
}

#[test]
fn deaths_are_read_from_the_log() {
    let at = "2026-11-20T15:11:26.045Z";
    let lines = [
        (
            "DEBUG echod[1]: conn pid=9 peer=127.0.0.1:5 listener=tcp:127.0.0.1:7 in=0 out=0 dur=4.6ms end=killed:KILL",
            Some(Some("127.0.0.1:5")),
        ),
        (
            "DEBUG echod[1]: conn pid=9 peer=127.0.0.1:5 listener=tcp:127.0.0.1:7 in=0 out=0 dur=4.6ms end=eof",
            None,
        ),
        ("ERROR echod[1]: idle process 9 died of SIGKILL", Some(None)),
        (
            "INFO echod[1]: stopping: 0 clients are left to finish",
            None,
        ),
    ];
    for (rest, expected) in lines {
        let got = Death::parse(&format!("{at} {rest}"));
        let got: Vec<_> = got.into_iter().map(|death| death.client).collect();
        let expected: Vec<_> = expected.into_iter().map(|c| c.map(str::to_owned)).collect();
        assert_eq!(got, expected, "{rest}");
    }
    let threads = "ERROR echod[1]: process 9 died of SIGKILL while serving 3 clients";
    assert_eq!(Death::parse(&format!("{at} {threads}")).len(), 3);
    assert_eq!(Death::parse("not a log line"), []);
}

#[test]
fn losses_are_read_from_echoload() {
    let line = "1795360286.045123\treset\t127.0.0.3:40000\ttcp:127.0.0.1:7\t10\t4";
    let loss = Loss::parse(line).expect("a loss");
    assert_eq!(
        (loss.kind.as_str(), loss.client.as_str()),
        ("reset", "127.0.0.3:40000")
    );
    assert!((loss.at - 1_795_360_286.045_123).abs() < 1e-3);
    assert_eq!(Loss::parse(""), None);
}
