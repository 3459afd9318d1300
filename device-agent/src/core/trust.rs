//! Whether an answer is the registrar's.

use super::*;
use jiff::SignedDuration;
use protocol::ticket::{Ticket, TicketError, endpoints_digest};

/// How long after its end a ticket still counts: clocks differ.
pub const LEEWAY: Duration = Duration::from_secs(5 * 60);

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forgery {
    /// There is no ticket to it.
    #[error("it has no ticket")]
    NoTicket,
    /// Its ticket is none, or signed with no key of the registrar's.
    #[error("its ticket: {0}")]
    Ticket(TicketError),
    /// Its ticket is over, or the device's clock is ahead.
    #[error("its ticket has expired, or this device's clock is wrong")]
    Expired,
    /// Its ticket is another device's, or it is about another device.
    #[error("its ticket is another device's")]
    Device,
    /// Its ticket is for another gateway than it names.
    #[error("its ticket is for another gateway")]
    Gateway,
    /// Its ticket is of another epoch than it names.
    #[error("its ticket is of another epoch")]
    Epoch,
    /// Its ticket is for other endpoints than it names, or says nothing of them.
    #[error("its ticket does not vouch for its endpoints")]
    Endpoints,
}

impl Machine {
    /// How long what vouches for an answer lasts, at `at` by the wall clock; for ever where nothing has to.
    ///
    /// # Errors
    /// The answer is not believed.
    pub(super) fn believes(&self, assigned: &Assigned, at: Timestamp) -> Result<Duration, Forgery> {
        let keys = &self.settings.registrar_keys;
        if keys.is_empty() {
            return Ok(Duration::MAX);
        }
        let token = assigned.ticket.as_deref().ok_or(Forgery::NoTicket)?;
        let lenient = at
            .checked_sub(SignedDuration::try_from(LEEWAY).unwrap_or_default())
            .unwrap_or(Timestamp::MIN);
        let ticket = Ticket::verify(token, keys, lenient).map_err(|error| match error {
            TicketError::Expired => Forgery::Expired,
            error => Forgery::Ticket(error),
        })?;
        if ticket.device != self.device || assigned.device != self.device {
            return Err(Forgery::Device);
        }
        if ticket.gateway != assigned.gateway.id {
            return Err(Forgery::Gateway);
        }
        if ticket.epoch != assigned.epoch {
            return Err(Forgery::Epoch);
        }
        if ticket.endpoints != Some(endpoints_digest(&assigned.gateway.endpoints)) {
            return Err(Forgery::Endpoints);
        }
        Ok(ticket.expires.duration_since(at).try_into().unwrap_or_default())
    }
}
