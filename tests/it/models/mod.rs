//! One battery of behaviour stamped over every process design: whatever the
//! design, the same clients see the same service.
//!
//! The battery is in `tests/it/models/`; here is only which design runs it.

pub mod reaping;
pub mod serving;
pub mod stopping;

/// One module a design, one test in it a behaviour.
macro_rules! battery {
    ($($design:ident as $module:ident),* $(,)?) => { $(
        battery!(@tests $module $design:
            serving::echo,
            serving::half_close,
            serving::many_at_once,
            serving::the_limit_is_exact,
            serving::a_killed_child_gives_its_slot_back,
            serving::a_kill_in_mid_transfer_breaks_one_client,
            serving::the_connection_line_is_right,
            reaping::nothing_grows_over_1000_connections,
            reaping::no_zombie_after_a_mass_kill,
            stopping::a_stop_under_load_loses_nobody,
            stopping::a_stop_lets_a_client_finish,
            stopping::hup_under_load_loses_nobody,
            stopping::orphans_finish_their_client,
            stopping::orphans_end_when_told_to,
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

battery! {
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
