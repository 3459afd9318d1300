//! Every JSON message: what is read is written and read again as the same.
#![no_main]

use std::fmt::Debug;

use protocol::message::{Answer, Commands, Events, GatewayStatus, Message, Migrate, MoveStatus, Query};

fn round_trip<M: Message + PartialEq + Debug>(payload: &[u8]) {
    if let Ok(message) = M::from_payload(payload) {
        let again = message.to_payload();
        // Numbers and escapes may take more room than they came in, so that the limit is the sender's to keep.
        if again.len() <= M::MAX_LEN {
            assert_eq!(M::from_payload(&again).ok().as_ref(), Some(&message));
        }
    }
}

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    round_trip::<Query>(payload);
    round_trip::<Answer>(payload);
    round_trip::<Migrate>(payload);
    round_trip::<MoveStatus>(payload);
    round_trip::<GatewayStatus>(payload);
    round_trip::<Commands>(payload);
    round_trip::<Events>(payload);
});
