//! Whether a device's ticket is one for it, and for this gateway. Pure.

use jiff::Timestamp;
use protocol::{
    DeviceId, Epoch, GatewayId,
    ticket::{KeySet, Ticket, TicketError},
};

/// Why a ticket lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is none.
    #[error("it has no ticket")]
    Missing,
    /// It cannot be believed.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// It is another device's, or the client's id is no device's.
    #[error("the ticket is another device's")]
    OtherDevice,
    /// It is for another gateway.
    #[error("the ticket is for another gateway")]
    OtherGateway,
}

impl Failure {
    /// What it is counted as.
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Missing => "no_ticket",
            Self::Ticket(TicketError::Malformed) => "malformed",
            Self::Ticket(TicketError::Algorithm) => "algorithm",
            Self::Ticket(TicketError::UnknownKey) => "unknown_key",
            Self::Ticket(TicketError::Signature) => "signature",
            Self::Ticket(TicketError::Expired) => "expired",
            Self::OtherDevice => "other_device",
            Self::OtherGateway => "other_gateway",
        }
    }
}

/// The device a client is, and the epoch of its assignment here, going by the ticket it has for a password.
///
/// # Errors
/// See [`Failure`].
pub fn check(
    client: &str,
    password: Option<&[u8]>,
    gateway: &GatewayId,
    keys: &KeySet,
    now: Timestamp,
) -> Result<(DeviceId, Epoch), Failure> {
    let token = password
        .filter(|password| !password.is_empty())
        .ok_or(Failure::Missing)?;
    let token = std::str::from_utf8(token).map_err(|_| TicketError::Malformed)?;
    let ticket = Ticket::verify(token, keys, now)?;
    if ticket.device.as_str() != client {
        return Err(Failure::OtherDevice);
    }
    if ticket.gateway != *gateway {
        return Err(Failure::OtherGateway);
    }
    Ok((ticket.device, ticket.epoch))
}

/// Whether a password looks like a ticket rather than like what a person has.
pub fn is_like(password: &[u8]) -> bool {
    // A JWT's header is a JSON object in base64url, and two dots part it.
    password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
}
