//! Every message of version 1, byte for byte as it stands in `golden/v1`: an old peer must keep understanding us.

#![allow(clippy::unwrap_used)]

use homeport_protocol::message::{
    Answer, Commands, Events, GatewayStatus, Message, MessageError, Migrate, MoveStatus, Query, VERSION,
};

fn round_trip<M: Message + PartialEq + std::fmt::Debug>(golden: &str) {
    let golden = golden.trim_end();
    let message = M::from_payload(golden.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(message.to_payload()).unwrap(), golden);
    let newer = format!("{},\"added_later\":[1]}}", &golden[..golden.len() - 1]);
    assert_eq!(
        M::from_payload(newer.as_bytes()).unwrap(),
        message,
        "an unknown field is ignored"
    );
    let other = golden.replacen("\"v\":1", "\"v\":2", 1);
    assert!(matches!(
        M::from_payload(other.as_bytes()),
        Err(MessageError::Version(2))
    ));
    let oversize = format!("{golden}{}", " ".repeat(M::MAX_LEN));
    assert!(matches!(
        M::from_payload(oversize.as_bytes()),
        Err(MessageError::TooLarge { .. })
    ));
    assert!(matches!(
        M::from_payload(b"{\"v\":1,\xff}"),
        Err(MessageError::Utf8(7))
    ));
    assert!(matches!(M::from_payload(b"{\"v\":1"), Err(MessageError::Json(_))));
}

#[test]
fn version_1() {
    assert_eq!(VERSION, 1);
    round_trip::<Query>(include_str!("../golden/v1/query.json"));
    round_trip::<Answer>(include_str!("../golden/v1/answer-assigned.json"));
    round_trip::<Answer>(include_str!("../golden/v1/answer-error.json"));
    round_trip::<Migrate>(include_str!("../golden/v1/migrate.json"));
    round_trip::<MoveStatus>(include_str!("../golden/v1/move-status.json"));
    round_trip::<GatewayStatus>(include_str!("../golden/v1/gateway-status.json"));
    round_trip::<Commands>(include_str!("../golden/v1/commands.json"));
    round_trip::<Events>(include_str!("../golden/v1/events.json"));
}

#[test]
fn an_empty_query_is_a_query() {
    assert_eq!(Query::from_payload(b"").unwrap(), Query::default());
    assert_eq!(Query::from_payload(b"{}").unwrap(), Query::default());
    assert!(matches!(Query::from_payload(b"[1]"), Err(MessageError::Object)));
}
