//! Faults: processes that die at the wrong moment, supervisors that are killed,
//! stops under load, short reads and writes. Rows of the fault catalogue by
//! number, each over every design it can happen in.
//!
//! The whole catalogue is in `tests/it/faults/catalogue.rs`, with the file of each
//! row's tests, and the reason where there is none.
//!
//! What a test expects of one design is in `tests/it/faults/`; here is only which
//! design runs it.

pub mod broken;
pub mod catalogue;
pub mod clock;
pub mod deaths;
pub mod doubles;
pub mod floods;
pub mod gossip;
pub mod orphans;
pub mod pids;
pub mod planted;
pub mod respawn;
pub mod stopped;
pub mod stops;
pub mod storms;
pub mod streams;
pub mod wrapper;

/// One module a design, one test in it a row.
macro_rules! rows {
    ($($design:ident as $module:ident),* $(,)?) => { $(
        rows!(@tests $module $design:
            deaths::row_20_the_limit_is_exact_after_kills,
            deaths::row_39_a_kill_breaks_its_own_client_alone,
            deaths::row_42_the_queue_survives_every_idle_worker,
            broken::row_40_a_crash_is_named_and_survived,
            broken::row_41_a_panic_stays_in_its_child,
            orphans::row_43_orphans_end_with_the_supervisor,
            orphans::row_44_orphans_finish_their_clients,
            stops::row_56_clients_that_never_leave_end_at_the_deadline,
            streams::row_77_half_close_gets_every_byte,
            streams::row_82_stop_and_continue_in_mid_stream,
            streams::row_83_urgent_bytes_stay_in_place,
            streams::row_86_a_long_stream_comes_back,
        );
    )* };
    (@tests $module:ident $design:ident: $($part:ident::$test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$part::$test(&crate::common::design::$design);
                }
            )*
        }
    };
}

rows! {
    PREFORK as prefork,
    PREFORK_REUSE as prefork_reuse,
    PREFORK_FCNTL as prefork_fcntl,
    PREFORK_MUTEX as prefork_mutex,
    PREFORK_PASS as prefork_pass,
    PREFORK_PASS_REUSE as prefork_pass_reuse,
    PREFORK_REUSEPORT as prefork_reuseport,
    FORK_WAIT as fork_wait,
    FORK_IGNORE as fork_ignore,
    FORK_DOUBLE as fork_double,
    ITERATIVE as iterative,
}
