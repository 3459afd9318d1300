//! Topic names and filters: their validity, their matching, and the plane they belong to.

use protocol::is_control_plane;

/// Who serves a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// The embedding server's hook.
    Control,
    /// The listener itself: `$SYS/…`.
    System,
    /// rumqttd's router.
    Application,
}

/// The plane of a topic name.
pub(crate) fn plane(name: &str) -> Plane {
    if is_control_plane(name) {
        Plane::Control
    } else if first_level(name) == "$SYS" {
        Plane::System
    } else {
        Plane::Application
    }
}

/// The planes a filter reaches; one that starts with a wildcard reaches two.
pub(crate) fn planes(filter: &str) -> &'static [Plane] {
    match first_level(filter) {
        "#" | "+" => &[Plane::Control, Plane::Application],
        _ => match plane(filter) {
            Plane::Control => &[Plane::Control],
            Plane::System => &[Plane::System],
            Plane::Application => &[Plane::Application],
        },
    }
}

fn first_level(text: &str) -> &str {
    text.split('/').next().unwrap_or_default()
}

/// The first two levels of a name or filter that has at least two.
pub(crate) fn stem(text: &str) -> Option<&str> {
    let first = text.find('/')?;
    let second = text[first + 1..].find('/').map(|at| first + 1 + at);
    Some(&text[..second.unwrap_or(text.len())])
}

/// Whether a filter holds a wildcard.
pub(crate) fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

/// The part of a filter before its first wildcard level; every name it matches starts with it, less a trailing slash.
pub(crate) fn literal_prefix(filter: &str) -> &str {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    filter[..end].trim_end_matches('/')
}

/// Whether a topic name may be published to.
pub(crate) fn valid_name(name: &str, max_levels: usize) -> bool {
    !name.is_empty() && !has_wildcard(name) && !name.contains('\0') && levels_within(name, max_levels)
}

/// Whether a filter may be subscribed to.
pub(crate) fn valid_filter(filter: &str, max_levels: usize) -> bool {
    if filter.is_empty() || filter.contains('\0') || !levels_within(filter, max_levels) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let lone = level == "+" || (level == "#" && levels.peek().is_none());
        if has_wildcard(level) && !lone {
            return false;
        }
    }
    true
}

fn levels_within(text: &str, max: usize) -> bool {
    text.bytes().filter(|byte| *byte == b'/').count() < max
}

/// Whether a valid topic name matches a valid filter, as MQTT says: `+` is one level, `#` is the rest, and neither
/// reaches a topic that begins with `$`.
pub fn matches(name: &str, filter: &str) -> bool {
    if name.starts_with('$') && matches!(filter.as_bytes().first(), Some(b'+' | b'#')) {
        return false;
    }
    let mut levels = name.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        for (name, filter, expected) in [
            ("sport/tennis/player1", "sport/tennis/player1/#", true),
            ("sport/tennis/player1/ranking", "sport/tennis/player1/#", true),
            ("sport", "sport/#", true),
            ("sport", "sport/+", false),
            ("sport/", "sport/+", true),
            ("/finance", "+/+", true),
            ("/finance", "/+", true),
            ("/finance", "+", false),
            ("$SYS/monitor", "#", false),
            ("$SYS/monitor", "+/monitor", false),
            ("$SYS/monitor", "$SYS/#", true),
            ("é/x", "+/x", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(name, filter), expected, "{name} {filter}");
        }
    }

    #[test]
    fn filters_and_names_are_validated() {
        for filter in ["#", "+", "a/#", "+/b/+", "/", "//", "a//b", "é/+"] {
            assert!(valid_filter(filter, 8), "{filter}");
        }
        for filter in ["", "a#", "#/a", "a+/b", "a/#/b", "a\0", "1/2/3/4/5/6/7/8/9"] {
            assert!(!valid_filter(filter, 8), "{filter}");
        }
        assert!(valid_name("é/x", 8) && valid_name("/", 8) && valid_name("1/2/3/4/5/6/7/8", 8));
        for name in ["", "a/#", "+", "a\0b", "1/2/3/4/5/6/7/8/9"] {
            assert!(!valid_name(name, 8), "{name}");
        }
    }

    #[test]
    fn planes_follow_the_first_level() {
        assert_eq!(plane("reg/query/d"), Plane::Control);
        assert_eq!(plane("$SYS/broker/version"), Plane::System);
        assert_eq!(plane("$other/x"), Plane::Application);
        assert_eq!(planes("#"), [Plane::Control, Plane::Application]);
        assert_eq!(planes("ctrl/#"), [Plane::Control]);
        assert_eq!(stem("a/b/c"), Some("a/b"));
        assert_eq!(stem("a/b"), Some("a/b"));
        assert_eq!(stem("a"), None);
    }

    /// The definition, level by level and without cleverness.
    fn model(name: &[&str], filter: &[&str]) -> bool {
        match (name, filter) {
            (_, ["#"]) => true,
            ([], []) => true,
            ([level, names @ ..], [wanted, filters @ ..]) => {
                (*wanted == "+" || wanted == level) && model(names, filters)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_model(name in "[ab$]?(/[abé]?){0,4}", filter in "[ab+$]?(/[abé+]?){0,3}(/#)?") {
            prop_assume!(valid_name(&name, 9) && valid_filter(&filter, 9));
            let hidden = name.starts_with('$') && filter.starts_with(['+', '#']);
            let names: Vec<_> = name.split('/').collect();
            let filters: Vec<_> = filter.split('/').collect();
            prop_assert_eq!(matches(&name, &filter), !hidden && model(&names, &filters));
            if matches(&name, &filter) {
                prop_assert!(name.starts_with(literal_prefix(&filter)));
            }
        }

        #[test]
        fn nothing_panics(name in ".{0,40}", filter in ".{0,40}") {
            let _ = (plane(&name), planes(&filter), stem(&name), valid_name(&name, 8), valid_filter(&filter, 8));
            let _ = (matches(&name, &filter), literal_prefix(&filter));
        }
    }
}
