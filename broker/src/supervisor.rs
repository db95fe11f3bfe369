//! When a district is started again (semantics, section 11): the policy of one district as a state machine.
//!
//! It is told what happened and says what to do; it starts and ends nothing itself. Times are in nanoseconds on any
//! clock that does not go back.

use std::collections::VecDeque;

/// After which endings a district is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartWhen {
    /// After all that nobody asked for, exits with code 0 too.
    Always,
    /// After all but an exit with code 0.
    OnFailure,
    /// After none.
    Never,
}

/// The restart policy of one district, from its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// After which endings.
    pub when: RestartWhen,
    /// Wait before the first restart, in nanoseconds.
    pub backoff: u64,
    /// Longest wait, in nanoseconds.
    pub backoff_max: u64,
    /// By how much the wait grows from one restart to the next.
    pub backoff_factor: u32,
    /// A life this long, in nanoseconds, was a stable one: the wait begins anew.
    pub stable_after: u64,
    /// So many restarts ...
    pub intensity: u32,
    /// ... are allowed in this time, in nanoseconds; with one more the district has failed.
    pub period: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        RestartPolicy {
            when: RestartWhen::OnFailure,
            backoff: SECOND / 10,
            backoff_max: 10 * SECOND,
            backoff_factor: 2,
            stable_after: 10 * SECOND,
            intensity: 10,
            period: 60 * SECOND,
        }
    }
}

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The program asked for it.
    Exit {
        /// With this code; 0 means that all is well.
        code: u8,
    },
    /// The program did what it may not do.
    Fault,
    /// Its vmm process ended, or could not start it.
    Killed,
}

/// Where a district is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody wants it to run.
    Stopped,
    /// It will be started at this time.
    Waiting {
        /// When.
        until: u64,
    },
    /// It runs, or is just being started.
    Running {
        /// Since when; `None`: not yet.
        since: Option<u64>,
    },
    /// It is being ended because somebody asked for it.
    Ending {
        /// Whether it is to be started again then.
        restart: bool,
    },
    /// It was restarted too often. Only a request starts it again.
    Failed,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Start it, at this time, unless another action comes before; then call [`Supervisor::starting`].
    StartAt(u64),
    /// End its present life.
    End,
    /// It stays stopped: it ended as it should, or its policy says so.
    StayStopped,
    /// It has failed: it ended so once more after as many restarts as are allowed. Tell whoever holds the supervisor.
    Failed(Ending),
}

/// Decides for one district.
#[derive(Debug, Clone)]
pub struct Supervisor {
    policy: RestartPolicy,
    state: State,
    /// Wait before the next restart.
    backoff: u64,
    /// When it was restarted, oldest first; no more than `intensity`, none older than `period`.
    restarts: VecDeque<u64>,
}

impl Supervisor {
    /// A district that does not run.
    pub fn new(policy: RestartPolicy) -> Self {
        Supervisor { policy, state: State::Stopped, backoff: policy.backoff, restarts: VecDeque::new() }
    }

    /// Where the district is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Somebody wants it to run. Also what gets a failed district going again.
    pub fn start_requested(&mut self, now: u64) -> Action {
        match self.state {
            State::Running { .. } => Action::None,
            State::Ending { .. } => {
                self.state = State::Ending { restart: true };
                Action::None
            }
            State::Stopped | State::Failed | State::Waiting { .. } => self.start_afresh(now),
        }
    }

    /// Somebody wants it to stop, and to stay so.
    pub fn stop_requested(&mut self) -> Action {
        match self.state {
            State::Running { .. } => {
                self.state = State::Ending { restart: false };
                Action::End
            }
            State::Ending { .. } => {
                self.state = State::Ending { restart: false };
                Action::None
            }
            State::Waiting { .. } | State::Stopped | State::Failed => {
                self.state = State::Stopped;
                Action::StayStopped
            }
        }
    }

    /// It is being started, as [`Action::StartAt`] said.
    pub fn starting(&mut self) {
        if let State::Waiting { .. } = self.state {
            self.state = State::Running { since: None };
        }
    }

    /// Its program runs.
    pub fn started(&mut self, now: u64) {
        if let State::Running { since: None } = self.state {
            self.state = State::Running { since: Some(now) };
        }
    }

    /// Its life ended, or could not begin.
    pub fn ended(&mut self, now: u64, ending: Ending) -> Action {
        match self.state {
            State::Ending { restart: true } => self.start_afresh(now),
            State::Ending { restart: false } => {
                self.state = State::Stopped;
                Action::StayStopped
            }
            State::Running { since } => {
                let wanted = match self.policy.when {
                    RestartWhen::Always => true,
                    RestartWhen::OnFailure => ending != Ending::Exit { code: 0 },
                    RestartWhen::Never => false,
                };
                if !wanted {
                    self.state = State::Stopped;
                    return Action::StayStopped;
                }
                if since.is_some_and(|since| now.saturating_sub(since) >= self.policy.stable_after) {
                    self.backoff = self.policy.backoff;
                }
                self.restart(now, ending)
            }
            State::Stopped | State::Waiting { .. } | State::Failed => Action::None,
        }
    }

    /// What was before counts no more.
    fn start_afresh(&mut self, now: u64) -> Action {
        self.backoff = self.policy.backoff;
        self.restarts.clear();
        self.state = State::Waiting { until: now };
        Action::StartAt(now)
    }

    fn restart(&mut self, now: u64, ending: Ending) -> Action {
        while self.restarts.front().is_some_and(|at| now.saturating_sub(*at) >= self.policy.period) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.policy.intensity as usize {
            self.state = State::Failed;
            return Action::Failed(ending);
        }
        self.restarts.push_back(now);
        let until = now.saturating_add(self.backoff);
        self.backoff = self.backoff.saturating_mul(u64::from(self.policy.backoff_factor)).min(self.policy.backoff_max);
        self.state = State::Waiting { until };
        Action::StartAt(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        when: RestartWhen::OnFailure,
        backoff: 100,
        backoff_max: 350,
        backoff_factor: 2,
        stable_after: 1000,
        intensity: 4,
        period: 10_000,
    };

    fn running(policy: RestartPolicy, now: u64) -> Supervisor {
        let mut supervisor = Supervisor::new(policy);
        assert_eq!(supervisor.start_requested(now), Action::StartAt(now));
        supervisor.starting();
        supervisor.started(now);
        supervisor
    }

    #[test]
    fn each_policy_restarts_after_its_endings() {
        let endings = [Ending::Exit { code: 0 }, Ending::Exit { code: 3 }, Ending::Fault, Ending::Killed];
        for (when, expected) in [
            (RestartWhen::Always, [true; 4]),
            (RestartWhen::OnFailure, [false, true, true, true]),
            (RestartWhen::Never, [false; 4]),
        ] {
            for (ending, restarts) in endings.into_iter().zip(expected) {
                let action = running(RestartPolicy { when, ..POLICY }, 5).ended(10, ending);
                let wanted = if restarts { Action::StartAt(110) } else { Action::StayStopped };
                assert_eq!(action, wanted, "{when:?} {ending:?}");
            }
        }
    }

    #[test]
    fn the_wait_grows_up_to_its_limit_and_then_the_district_has_failed() {
        let mut supervisor = running(POLICY, 0);
        for (now, start) in [(10, 110), (120, 320), (330, 680), (700, 1050)] {
            assert_eq!(supervisor.ended(now, Ending::Fault), Action::StartAt(start));
            supervisor.starting();
            supervisor.started(start);
        }
        assert_eq!(supervisor.ended(1100, Ending::Fault), Action::Failed(Ending::Fault));
        assert_eq!(supervisor.state(), State::Failed);
        assert_eq!(supervisor.ended(1200, Ending::Fault), Action::None);
        assert_eq!(supervisor.start_requested(1300), Action::StartAt(1300));
    }

    #[test]
    fn restarts_that_are_long_ago_do_not_count() {
        let mut supervisor = running(POLICY, 0);
        for round in 1..100 {
            let now = round * 2_600;
            assert!(matches!(supervisor.ended(now, Ending::Killed), Action::StartAt(_)), "round {round}");
            supervisor.starting();
            supervisor.started(now + 1);
        }
    }

    #[test]
    fn a_stable_life_makes_the_wait_short_again() {
        let mut supervisor = running(POLICY, 0);
        for (now, start) in [(10, 110), (120, 320)] {
            assert_eq!(supervisor.ended(now, Ending::Fault), Action::StartAt(start));
            supervisor.starting();
            supervisor.started(start);
        }
        assert_eq!(supervisor.ended(1320, Ending::Fault), Action::StartAt(1420));
    }

    #[test]
    fn one_that_never_comes_up_fails_too() {
        let mut supervisor = Supervisor::new(POLICY);
        let mut action = supervisor.start_requested(0);
        let mut starts = 0;
        while let Action::StartAt(at) = action {
            starts += 1;
            supervisor.starting();
            action = supervisor.ended(at, Ending::Killed);
        }
        assert_eq!((starts, action), (5, Action::Failed(Ending::Killed)));
    }

    #[test]
    fn requests_win_over_the_policy() {
        let mut supervisor = running(RestartPolicy { when: RestartWhen::Always, ..POLICY }, 0);
        assert_eq!(supervisor.stop_requested(), Action::End);
        assert_eq!(supervisor.ended(10, Ending::Killed), Action::StayStopped);

        let mut supervisor = running(RestartPolicy { when: RestartWhen::Never, ..POLICY }, 0);
        assert_eq!(supervisor.stop_requested(), Action::End);
        assert_eq!(supervisor.start_requested(11), Action::None);
        assert_eq!(supervisor.ended(20, Ending::Killed), Action::StartAt(20));

        let mut supervisor = running(POLICY, 0);
        assert_eq!(supervisor.stop_requested(), Action::End);
        assert_eq!(supervisor.start_requested(11), Action::None);
        assert_eq!(supervisor.stop_requested(), Action::None);
        assert_eq!(supervisor.start_requested(12), Action::None);
        assert_eq!(supervisor.state(), State::Ending { restart: true });
    }

    #[test]
    fn a_stop_while_it_waits_cancels_the_start() {
        let mut supervisor = running(POLICY, 0);
        assert_eq!(supervisor.ended(10, Ending::Fault), Action::StartAt(110));
        assert_eq!(supervisor.stop_requested(), Action::StayStopped);
        assert_eq!(supervisor.state(), State::Stopped);
    }

    #[test]
    fn no_time_overflows() {
        let policy = RestartPolicy { backoff: u64::MAX, backoff_factor: u32::MAX, ..POLICY };
        let mut supervisor = running(policy, u64::MAX);
        assert_eq!(supervisor.ended(u64::MAX, Ending::Fault), Action::StartAt(u64::MAX));
    }
}
