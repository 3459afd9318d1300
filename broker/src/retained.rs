//! Retained application messages, in memory and bounded.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{
    Config,
    message::Publication,
    metrics::Metrics,
    topic::{literal_prefix, matches},
};

/// Retained messages by topic.
pub(crate) struct Retained {
    max_messages: usize,
    max_bytes: usize,
    store: RwLock<Store>,
}

#[derive(Default)]
struct Store {
    messages: BTreeMap<Arc<str>, Arc<Publication>>,
    bytes: usize,
}

impl Retained {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_messages: config.max_retained_messages,
            max_bytes: config.max_retained_bytes,
            store: RwLock::default(),
        }
    }

    /// Keeps a message in place of its topic's older one; one with an empty payload only removes that. A message that
    /// does not fit is not kept, and counted; its topic's older one goes too, as it is out of date.
    pub(crate) fn put(&self, publication: &Publication, metrics: &Metrics) {
        let mut store = self.store.write();
        if let Some(old) = store.messages.remove(&*publication.topic) {
            store.bytes -= old.size();
        }
        if !publication.payload.is_empty() {
            let fits = store.messages.len() < self.max_messages
                && store.bytes + publication.size() <= self.max_bytes;
            if fits {
                let kept = publication.detached();
                store.bytes += kept.size();
                store.messages.insert(Arc::from(&*kept.topic), Arc::new(kept));
            } else {
                metrics.drop_message("retained_full");
            }
        }
        metrics.retained.set(store.messages.len() as i64);
        metrics.retained_bytes.set(store.bytes as i64);
    }

    /// Calls `each` with every retained message whose topic matches and comes after the given one, in the order of
    /// topics, until it returns false.
    pub(crate) fn visit(
        &self,
        filter: &str,
        after: Option<&str>,
        mut each: impl FnMut(&Arc<Publication>) -> bool,
    ) {
        let prefix = literal_prefix(filter);
        let start = match after {
            Some(topic) => Bound::Excluded(topic),
            None => Bound::Included(prefix),
        };
        let now = Instant::now();
        let store = self.store.read();
        for (topic, publication) in store.messages.range::<str, _>((start, Bound::Unbounded)) {
            if !topic.starts_with(prefix) {
                return;
            }
            if matches(topic, filter) && !publication.expired(now) && !each(publication) {
                return;
            }
        }
    }

    /// Forgets messages that have expired.
    pub(crate) fn expire(&self, now: Instant, metrics: &Metrics) {
        let mut store = self.store.write();
        let before = store.messages.len();
        store.messages.retain(|_, publication| !publication.expired(now));
        if store.messages.len() < before {
            metrics.drop_messages("expired", (before - store.messages.len()) as u64);
            store.bytes = store
                .messages
                .values()
                .map(|publication| publication.size())
                .sum();
            metrics.retained.set(store.messages.len() as i64);
            metrics.retained_bytes.set(store.bytes as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(topic: &str, payload: &str) -> Publication {
        Publication {
            topic: topic.to_owned().into(),
            payload: payload.to_owned().into(),
            retain: true,
            ..Publication::default()
        }
    }

    fn topics(retained: &Retained, filter: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let mut found = Vec::new();
        retained.visit(filter, after, |publication| {
            found.push(publication.topic.to_string());
            found.len() < limit
        });
        found
    }

    #[test]
    fn it_is_bounded_ordered_and_paged() {
        let metrics = Metrics::default();
        let retained = Retained::new(&Config {
            max_retained_messages: 4,
            ..Config::default()
        });
        for topic in ["a/3", "a/1", "b/1", "a/2", "too/many"] {
            retained.put(&publication(topic, "x"), &metrics);
        }
        assert_eq!(topics(&retained, "#", None, 9), ["a/1", "a/2", "a/3", "b/1"]);
        assert_eq!(topics(&retained, "a/+", None, 2), ["a/1", "a/2"]);
        assert_eq!(topics(&retained, "a/#", Some("a/2"), 9), ["a/3"]);
        assert_eq!(topics(&retained, "a/2", None, 9), ["a/2"]);
        retained.put(&publication("a/2", ""), &metrics);
        assert_eq!(topics(&retained, "+/2", None, 9), Vec::<String>::new());
        assert_eq!(metrics.retained.get(), 3);
    }
}
