//! What the command line says of access, checked without serving.

use crate::common::{Builder, DEADLINE};

#[test]
fn what_excludes_each_other_is_a_usage_error_and_check_says_so_too() {
    for check in [&[][..], &["--check"]] {
        for (args, both) in [
            (
                &["--accept", "shared", "--max-per-source", "5"][..],
                ["--accept shared", "--max-per-source"],
            ),
            (
                &["--accept", "mutex", "--connection-rate", "5/1s"],
                ["--accept mutex", "--connection-rate"],
            ),
            (&["--deny", "uid:5"], ["--deny uid:5", "--listen unix:"]),
        ] {
            let finished = Builder::new().args(args).args(check).bare().run(DEADLINE);
            assert_eq!(finished.status.code(), Some(64), "{args:?}");
            assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
            for option in both {
                assert!(finished.stderr.contains(option), "{}", finished.stderr);
            }
        }
    }
    let args = ["--max-per-source", "64/24:56", "--connection-rate", "5/1s"];
    let finished = Builder::new()
        .args(args)
        .args(["--check", "-l", "127.0.0.1:0", "--deny", "192.0.2.0/24"])
        .bare()
        .run(DEADLINE);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
}
