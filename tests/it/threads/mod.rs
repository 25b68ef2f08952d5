//! The designs with threads: the battery of every design as far as it does not
//! ask for a process a client, and what is theirs alone: one crash takes every
//! client of the worker along, and the limit holds across the workers that
//! serve at the same time.

pub mod fate;
pub mod limit;

use crate::models::reaping;
use crate::models::serving;
use crate::models::stopping;

/// One module a design, one test in it a behaviour.
macro_rules! battery {
    ($($design:ident as $module:ident),* $(,)?) => { $(
        battery!(@tests $module $design:
            serving::echo,
            serving::half_close,
            serving::many_at_once,
            serving::the_limit_is_exact,
            serving::the_connection_line_is_right,
            reaping::nothing_grows_over_1000_connections,
            reaping::no_zombie_after_a_mass_kill,
            stopping::a_stop_under_load_loses_nobody,
            stopping::a_stop_lets_a_client_finish,
            stopping::hup_under_load_loses_nobody,
            stopping::orphans_finish_their_client,
            stopping::orphans_end_when_told_to,
            fate::a_crash_ends_every_client_of_its_worker,
            fate::a_panic_ends_every_client_of_its_worker,
            fate::workers_killed_under_load_are_replaced,
            fate::the_worker_stays_the_same_over_1000_connections,
            fate::the_deadline_and_a_second_term_end_clients,
            fate::a_worker_without_descriptors_loses_nobody,
            fate::a_worker_without_room_for_threads_loses_nobody,
            limit::clients_beyond_the_limit_are_turned_away_if_asked,
            limit::clients_beyond_the_limit_wait_and_are_served,
            limit::it_holds_across_generations,
            limit::it_holds_while_a_stop_drains_the_queue,
            limit::it_holds_after_a_kill,
            limit::lifetimes_end_in_any_number,
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
    THREAD as thread,
    PRETHREAD as prethread,
    PRETHREAD_MUTEX as prethread_mutex,
    PRETHREAD_PASS as prethread_pass,
}
