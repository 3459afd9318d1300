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

/// Whether a filter matches a topic name.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_mqtt_says() {
        for filter in [
            "#",
            "gw/#",
            "gw/+/status",
            "+/+/+",
            "gw/gw-a/status",
            "gw/gw-a/status/#",
        ] {
            assert!(matches(filter, "gw/gw-a/status"), "{filter}");
        }
        for filter in [
            "gw/+",
            "gw/gw-a",
            "gw/gw-b/status",
            "+/+/+/+",
            "gw/gw-a/status/+",
            "",
        ] {
            assert!(!matches(filter, "gw/gw-a/status"), "{filter}");
        }
    }

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
