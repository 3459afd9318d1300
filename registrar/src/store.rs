//! What survives a restart. One owner task groups writes into commits; a lookup never comes here.
pub mod record;
