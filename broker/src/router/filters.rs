//! The filters of one link, and which of the router's copies of a message goes on.
//!
//! The router hands a link a copy of a message for each of its filters that match. The first one goes on, for all of them
//! together; the others are recognised by the message's stamp.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    message::{Delivery, Options, Publication},
    topic::{matches, overlap},
};

/// Copies still to come that a filter remembers. Past these, the oldest counts as new when it comes, which MQTT allows.
const REMEMBERED: usize = 1024;

/// The filters of a link, by the subscription identifiers they have inside the router.
#[derive(Default)]
pub(super) struct Filters {
    last: usize,
    known: HashMap<usize, Subscribed>,
}

struct Subscribed {
    filter: Arc<str>,
    options: Options,
    /// The log position of the next message, once one has come.
    expected: Option<u64>,
    /// The filters that match some topic which this one matches too.
    overlapping: Vec<usize>,
    /// The stamps of messages that went on and whose copy for this filter is still to come.
    gone_on: VecDeque<u64>,
}

impl Filters {
    /// Adds a filter and returns its identifier, or gives a known one new options.
    pub(super) fn subscribe(&mut self, filter: &Arc<str>, options: Options) -> Option<usize> {
        if let Some(known) = self.known.values_mut().find(|known| known.filter == *filter) {
            known.options = options;
            return None;
        }
        self.last += 1;
        let id = self.last;
        let mut overlapping = Vec::new();
        for (other, known) in &mut self.known {
            if overlap(&known.filter, filter) {
                known.overlapping.push(id);
                overlapping.push(*other);
            }
        }
        let subscribed = Subscribed {
            filter: Arc::clone(filter),
            options,
            expected: None,
            overlapping,
            gone_on: VecDeque::new(),
        };
        self.known.insert(id, subscribed);
        Some(id)
    }

    /// Removes a filter.
    pub(super) fn unsubscribe(&mut self, filter: &str) {
        let id = self
            .known
            .iter()
            .find_map(|(id, known)| (*known.filter == *filter).then_some(*id));
        if let Some(id) = id {
            self.known.remove(&id);
            for known in self.known.values_mut() {
                known.overlapping.retain(|other| *other != id);
            }
        }
    }

    /// How many messages a filter's log has lost before the one at this position.
    pub(super) fn lost(&mut self, id: usize, position: u64) -> u64 {
        self.known
            .get_mut(&id)
            .and_then(|known| known.expected.replace(position + 1))
            .and_then(|expected| position.checked_sub(expected))
            .unwrap_or(0)
    }

    /// What a session gets of a message of which the copy for this filter has come.
    pub(super) fn delivery(
        &mut self,
        id: usize,
        stamp: u64,
        session: u64,
        publication: &Arc<Publication>,
    ) -> Option<Delivery> {
        let known = self.known.get_mut(&id)?;
        if known.overlapping.is_empty() {
            return Delivery::live(session, publication, [&known.options]);
        }
        if let Some(at) = known.gone_on.iter().position(|gone| *gone == stamp) {
            known.gone_on.remove(at);
            return None;
        }
        let mut matching = vec![known.options];
        for other in known.overlapping.clone() {
            if let Some(other) = self.known.get_mut(&other)
                && matches(&publication.topic, &other.filter)
            {
                matching.push(other.options);
                if other.gone_on.len() >= REMEMBERED {
                    other.gone_on.pop_front();
                }
                other.gone_on.push_back(stamp);
            }
        }
        Delivery::live(session, publication, &matching)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::QoS;

    const SESSION: u64 = 7;

    fn options(qos: QoS, id: u32) -> Options {
        Options {
            qos,
            id: NonZeroU32::new(id),
            ..Options::default()
        }
    }

    fn publication(topic: &str, publisher: u64) -> Arc<Publication> {
        Arc::new(Publication {
            topic: topic.to_owned().into(),
            qos: QoS::ExactlyOnce,
            publisher,
            ..Publication::default()
        })
    }

    fn subscribe(filters: &mut Filters, filter: &str, options: Options) -> usize {
        filters
            .subscribe(&filter.into(), options)
            .expect("the filter is new")
    }

    fn ids(delivery: Option<Delivery>) -> Option<(QoS, Vec<u32>)> {
        let delivery = delivery?;
        let mut ids: Vec<_> = delivery.subscriptions.iter().map(|id| id.get()).collect();
        ids.sort_unstable();
        Some((delivery.qos, ids))
    }

    #[test]
    fn the_first_copy_goes_on_for_all_that_match() {
        let mut filters = Filters::default();
        let one = subscribe(&mut filters, "a/+", options(QoS::AtMostOnce, 1));
        let two = subscribe(&mut filters, "a/#", options(QoS::ExactlyOnce, 2));
        let apart = subscribe(&mut filters, "b", options(QoS::AtLeastOnce, 3));
        let message = publication("a/b", 1);
        for stamp in [10, 11] {
            let first = filters.delivery(two, stamp, SESSION, &message);
            assert_eq!(ids(first), Some((QoS::ExactlyOnce, vec![1, 2])));
        }
        for stamp in [10, 11] {
            assert!(filters.delivery(one, stamp, SESSION, &message).is_none());
        }
        let later = filters.delivery(one, 12, SESSION, &message);
        assert_eq!(ids(later), Some((QoS::ExactlyOnce, vec![1, 2])));
        let deep = filters.delivery(two, 13, SESSION, &publication("a/b/c", 1));
        assert_eq!(ids(deep), Some((QoS::ExactlyOnce, vec![2])));
        let other = filters.delivery(apart, 14, SESSION, &publication("b", 1));
        assert_eq!(ids(other), Some((QoS::AtLeastOnce, vec![3])));
    }

    #[test]
    fn a_filter_that_is_gone_takes_nothing_along() {
        let mut filters = Filters::default();
        let one = subscribe(&mut filters, "a/+", options(QoS::AtMostOnce, 1));
        let two = subscribe(&mut filters, "a/#", options(QoS::AtLeastOnce, 2));
        let message = publication("a/b", 1);
        filters.unsubscribe("a/+");
        assert!(filters.delivery(one, 1, SESSION, &message).is_none());
        let left = filters.delivery(two, 1, SESSION, &message);
        assert_eq!(ids(left), Some((QoS::AtLeastOnce, vec![2])));
        assert!(filters.delivery(two, 2, SESSION, &message).is_some());
    }

    #[test]
    fn what_is_unwanted_of_ones_own_is_not_asked_for_by_another_filter() {
        let mut filters = Filters::default();
        let quiet = Options {
            no_local: true,
            ..options(QoS::ExactlyOnce, 1)
        };
        let one = subscribe(&mut filters, "a/+", quiet);
        let two = subscribe(&mut filters, "a/b", quiet);
        assert!(
            filters
                .delivery(one, 1, SESSION, &publication("a/b", SESSION))
                .is_none()
        );
        filters.subscribe(&"a/b".into(), options(QoS::AtLeastOnce, 2));
        let wanted = filters.delivery(one, 2, SESSION, &publication("a/b", SESSION));
        assert_eq!(ids(wanted), Some((QoS::AtLeastOnce, vec![2])));
        assert!(
            filters
                .delivery(two, 2, SESSION, &publication("a/b", SESSION))
                .is_none()
        );
    }

    #[test]
    fn what_is_remembered_of_copies_that_never_come_is_bounded() {
        let mut filters = Filters::default();
        let one = subscribe(&mut filters, "a/+", options(QoS::AtMostOnce, 1));
        let two = subscribe(&mut filters, "a/#", options(QoS::AtMostOnce, 2));
        let message = publication("a/b", 1);
        for stamp in 0..3 * REMEMBERED as u64 {
            assert!(filters.delivery(one, stamp, SESSION, &message).is_some());
        }
        assert_eq!(filters.known[&two].gone_on.len(), REMEMBERED);
    }

    #[test]
    fn a_gap_is_counted_once() {
        let mut filters = Filters::default();
        let id = subscribe(&mut filters, "a", options(QoS::AtMostOnce, 1));
        let lost: Vec<_> = [5, 6, 9, 10].map(|position| filters.lost(id, position)).into();
        assert_eq!(lost, [0, 0, 2, 0]);
    }
}
