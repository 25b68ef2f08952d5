//! The supervisor's life as a pure table: phase and input in, phase and action
//! out. No clock is asked, no call is made; a test is a list of lines.
//!
//! ```text
//! Running --TERM--> Delaying --> Settling --> Draining --> Ending --> (exit)
//!          |-TERM, and no delay --->'                    |
//!          `-INT----------------------------------------->'
//! ```
//! - *Delaying*: still accepting, while balancers notice (`--shutdown-delay`).
//! - *Settling*: TCP listeners drop new handshakes, those begun may complete.
//! - *Draining*: idle workers leave, what is queued is served, clients finish.
//! - *Ending*: the deadline has come; who is left was killed.

use std::time::{Duration, Instant};

use crate::config::StopTimes;

/// Where in its life the supervisor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Serving.
    Running,
    /// Serving, about to stop.
    Delaying {
        /// When the stop goes on.
        until: Instant,
        /// The stop has a deadline (TERM) or none (QUIT).
        bounded: bool,
    },
    /// Accepting what had begun before the stop.
    Settling {
        /// When the queue is taken to be complete.
        until: Instant,
        /// When clients are cut.
        deadline: Option<Instant>,
    },
    /// Serving what is left.
    Draining {
        /// When clients are cut.
        deadline: Option<Instant>,
    },
    /// Waiting for those who were killed to be gone.
    Ending {
        /// When they are given up.
        until: Instant,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// Time went by.
    Tick,
    /// No listener and no child is left.
    Empty,
}

/// What to do about it, on entering the phase that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Say that a stop has begun; go on accepting.
    Announce,
    /// Let TCP listeners drop new handshakes.
    RefuseNew,
    /// Retire the idle workers and take what is queued.
    TakeQueue,
    /// Reset what is queued, close the listeners, kill every child.
    Cut,
    /// Leave.
    Exit,
}

/// How long the kernel may take to kill a child.
const PATIENCE: Duration = Duration::from_secs(6);

impl Phase {
    /// Are new clients welcome, as far as listeners and limits allow?
    pub(super) fn serves(self) -> bool {
        matches!(
            self,
            Phase::Running | Phase::Delaying { .. } | Phase::Settling { .. }
        )
    }

    /// Are new clients let in by the kernel?
    pub(super) fn welcomes(self) -> bool {
        matches!(self, Phase::Running | Phase::Delaying { .. })
    }

    /// Has the deadline come, so that nobody is left to finish?
    pub(super) fn cuts(self) -> bool {
        matches!(self, Phase::Ending { .. })
    }

    /// For the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Delaying { .. } => "delaying",
            Phase::Settling { .. } => "settling",
            Phase::Draining { .. } => "draining",
            Phase::Ending { .. } => "ending",
        }
    }

    /// When [`Input::Tick`] will change something.
    pub(super) fn wakes_at(self) -> Option<Instant> {
        match self {
            Phase::Running => None,
            Phase::Draining { deadline } => deadline,
            Phase::Delaying { until, .. }
            | Phase::Settling { until, .. }
            | Phase::Ending { until } => Some(until),
        }
    }
}

/// One step of the supervisor's life.
pub(super) fn advance(
    phase: Phase,
    input: Input,
    now: Instant,
    times: &StopTimes,
) -> (Phase, Action) {
    let deadline = |bounded: bool| bounded.then(|| now + times.graceful);
    let settle = |bounded| {
        let phase = Phase::Settling {
            until: now + times.settle,
            deadline: deadline(bounded),
        };
        (phase, Action::RefuseNew)
    };
    let cut = (
        Phase::Ending {
            until: now + PATIENCE,
        },
        Action::Cut,
    );
    match (phase, input) {
        (Phase::Running, Input::Term | Input::Quit) => {
            let bounded = input == Input::Term;
            if times.delay.is_zero() {
                return settle(bounded);
            }
            (
                Phase::Delaying {
                    until: now + times.delay,
                    bounded,
                },
                Action::Announce,
            )
        }
        // A second TERM skips the delay, a further one is INT.
        (Phase::Delaying { .. }, Input::Term) => settle(true),
        (Phase::Delaying { until, bounded }, Input::Tick) if until <= now => settle(bounded),
        // TERM after QUIT gives the drain the deadline it lacked.
        (
            Phase::Settling {
                until,
                deadline: None,
            },
            Input::Term,
        ) => (
            Phase::Settling {
                until,
                deadline: deadline(true),
            },
            Action::None,
        ),
        (Phase::Draining { deadline: None }, Input::Term) => (
            Phase::Draining {
                deadline: deadline(true),
            },
            Action::None,
        ),
        (Phase::Ending { .. }, Input::Term | Input::Interrupt | Input::Quit) => {
            (phase, Action::None)
        }
        (_, Input::Interrupt) | (Phase::Settling { .. } | Phase::Draining { .. }, Input::Term) => {
            cut
        }
        (
            Phase::Settling {
                deadline: Some(at), ..
            }
            | Phase::Draining { deadline: Some(at) },
            Input::Tick,
        ) if at <= now => cut,
        (Phase::Settling { until, deadline }, Input::Tick) if until <= now => {
            (Phase::Draining { deadline }, Action::TakeQueue)
        }
        (Phase::Ending { until }, Input::Tick) if until <= now => (phase, Action::Exit),
        (Phase::Draining { .. } | Phase::Ending { .. }, Input::Empty) => (phase, Action::Exit),
        _ => (phase, Action::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps through `(ms since start, input, action expected)`.
    fn story(times: StopTimes, steps: &[(u64, Input, Action)]) -> Phase {
        let start = Instant::now();
        let mut phase = Phase::Running;
        for &(ms, input, expected) in steps {
            let (next, action) = advance(phase, input, start + Duration::from_millis(ms), &times);
            assert_eq!(action, expected, "{input:?} at {ms} ms in {phase:?}");
            phase = next;
        }
        phase
    }

    fn times(delay: u64, settle: u64, graceful: u64) -> StopTimes {
        StopTimes {
            delay: Duration::from_millis(delay),
            settle: Duration::from_millis(settle),
            graceful: Duration::from_millis(graceful),
        }
    }

    use Action::*;
    use Input::*;

    #[test]
    fn term_settles_drains_and_leaves_when_empty() {
        story(
            times(0, 200, 8000),
            &[
                (0, Tick, None),
                (0, Term, RefuseNew),
                (199, Tick, None),
                (150, Empty, None),
                (200, Tick, TakeQueue),
                (300, Tick, None),
                (400, Empty, Exit),
            ],
        );
    }

    #[test]
    fn term_cuts_at_the_deadline_then_gives_up() {
        story(
            times(0, 200, 8000),
            &[
                (0, Term, RefuseNew),
                (200, Tick, TakeQueue),
                (8000, Tick, Cut),
                (8500, Term, None),
                (13_999, Tick, None),
                (14_000, Tick, Exit),
            ],
        );
    }

    #[test]
    fn a_deadline_shorter_than_the_settling_still_cuts() {
        story(
            times(0, 200, 100),
            &[(0, Term, RefuseNew), (100, Tick, Cut), (101, Empty, Exit)],
        );
    }

    #[test]
    fn second_term_is_int_and_int_is_now() {
        story(
            times(0, 200, 8000),
            &[(0, Term, RefuseNew), (10, Term, Cut), (11, Empty, Exit)],
        );
        story(
            times(0, 200, 8000),
            &[(0, Interrupt, Cut), (1, Interrupt, None), (2, Empty, Exit)],
        );
    }

    #[test]
    fn quit_has_no_deadline_until_term_gives_one() {
        story(
            times(0, 0, 8000),
            &[
                (0, Quit, RefuseNew),
                (0, Tick, TakeQueue),
                (1_000_000, Tick, None),
                (1_000_000, Term, None),
                (1_007_999, Tick, None),
                (1_008_000, Tick, Cut),
            ],
        );
    }

    #[test]
    fn the_delay_accepts_until_it_ends_or_a_second_term_skips_it() {
        let phase = story(
            times(5000, 200, 8000),
            &[(0, Term, Announce), (4999, Tick, None)],
        );
        assert!(phase.serves());
        story(
            times(5000, 200, 8000),
            &[
                (0, Term, Announce),
                (5000, Tick, RefuseNew),
                (5200, Tick, TakeQueue),
                (13_000, Tick, Cut),
            ],
        );
        story(
            times(5000, 200, 8000),
            &[
                (0, Term, Announce),
                (100, Term, RefuseNew),
                (110, Term, Cut),
            ],
        );
        story(
            times(5000, 200, 8000),
            &[
                (0, Quit, Announce),
                (5000, Tick, RefuseNew),
                (5200, Tick, TakeQueue),
                (100_000, Tick, None),
            ],
        );
    }
}
