//! Which topics the bootstrap broker serves.

/// The device of a query's topic, valid or not.
pub(super) fn query(topic: &str) -> Option<&str> {
    topic.strip_prefix("reg/query/")
}

/// Whether a filter may be subscribed to: everything there is may be read, and there are no application topics.
pub(super) fn is_served(filter: &str) -> bool {
    matches!(
        filter.split('/').next(),
        Some("reg" | "gw" | "ctrl" | "$SYS" | "+" | "#")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_topics_are_not_served() {
        assert!(
            ["reg/#", "gw/+/status", "ctrl/#", "$SYS/#", "#", "+/x"]
                .into_iter()
                .all(is_served)
        );
        assert!(
            !["data/#", "cmd/d1/x", "", "/reg", "regx"]
                .into_iter()
                .any(is_served)
        );
    }
}
