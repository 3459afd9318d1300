use std::time::Duration;

/// Holds questions back after failures.
#[derive(Default)]
pub(super) struct Gate {
    failures: u32,
    backoff: Duration,
    retry_after: Duration,
    /// Whether what the registrar refused does not depend on the device's assignment.
    firm: bool,
    on_trial: bool,
}

impl Gate {
    /// No question before this time.
    pub(super) fn opens_at(&self) -> Duration {
        self.backoff.max(self.retry_after)
    }

    /// Whether the device acts on an answer that has not led to a lasting connection yet, so a failure is a failure of
    /// the answer too.
    pub(super) fn is_on_trial(&self) -> bool {
        self.on_trial
    }

    /// Counts a failure and says how many there were in a row.
    pub(super) fn failed(&mut self) -> u32 {
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// Closes it until `until`, or later where it is closed for longer.
    pub(super) fn close_until(&mut self, until: Duration) {
        self.backoff = self.backoff.max(until);
    }

    /// The registrar wants no question before `until`.
    pub(super) fn retry_after(&mut self, until: Duration, firm: bool) {
        self.retry_after = until;
        self.firm = firm;
    }

    /// The registrar has answered, and the device acts on it.
    pub(super) fn answered(&mut self) {
        self.on_trial = true;
        self.retry_after = Duration::ZERO;
    }

    /// The assignment has changed, and with it what the registrar refused; unless it only wanted to be left alone.
    pub(super) fn reconsider(&mut self) {
        if !self.firm {
            self.retry_after = Duration::ZERO;
        }
    }

    /// The device is where it belongs, and stays.
    pub(super) fn settle(&mut self) {
        self.failures = 0;
        self.on_trial = false;
    }
}
