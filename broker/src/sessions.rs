//! Sessions, which outlive their connections, and the bounded store of those that wait for their client.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    Client,
    flow::Flow,
    index::{Index, Subscriber},
    mailbox::Mailbox,
    message::{Options, Will},
    metrics::Metrics,
    router::Link,
};

/// The expiry of a session that never ends by itself.
pub(crate) const FOREVER: u32 = u32::MAX;

/// What a client's subscriptions and unfinished deliveries are. Dropping it leaves nothing of it in the broker.
pub(crate) struct Session {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) subscriptions: Vec<(Arc<str>, Options)>,
    pub(crate) link: Option<Box<Link>>,
    pub(crate) flow: Option<Box<Flow>>,
    index: Arc<Index>,
}

impl Session {
    pub(crate) fn new(mailbox: Mailbox, index: Arc<Index>) -> Self {
        Self {
            mailbox: Arc::new(mailbox),
            subscriptions: Vec::new(),
            link: None,
            flow: None,
            index,
        }
    }

    /// Adds a subscription or gives an old one new options; false when it is an old one.
    pub(crate) fn subscribe(&mut self, filter: &Arc<str>, options: Options) -> bool {
        match self.subscriptions.iter_mut().find(|(known, _)| known == filter) {
            Some((_, old)) => {
                *old = options;
                false
            }
            None => {
                self.subscriptions.reserve_exact(1);
                self.subscriptions.push((Arc::clone(filter), options));
                true
            }
        }
    }

    /// Shows the subscription what is published on the control plane.
    pub(crate) fn listen(&self, filter: &Arc<str>, options: Options) {
        self.index.add(
            filter,
            Subscriber {
                mailbox: Arc::clone(&self.mailbox),
                options,
            },
        );
    }

    /// Removes a subscription; false when there is none.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|(known, _)| **known != *filter);
        self.index.remove(filter, self.mailbox.number);
        self.subscriptions.len() < before
    }

    /// Whether everything that belongs to it still works.
    pub(crate) fn is_whole(&self) -> bool {
        self.link.as_ref().is_none_or(|link| !link.is_lost())
    }

    /// The deliveries of QoS 1 and 2 under way.
    pub(crate) fn flow(&mut self) -> &mut Flow {
        self.flow.get_or_insert_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (filter, _) in &self.subscriptions {
            self.index.remove(filter, self.mailbox.number);
        }
    }
}

/// A session that waits for its client.
pub(crate) struct Stored {
    pub(crate) session: Session,
    pub(crate) will: Option<PendingWill>,
    expires: Option<Instant>,
    order: u64,
}

/// A will whose delay runs.
pub(crate) struct PendingWill {
    pub(crate) client: Client,
    pub(crate) will: Will,
    pub(crate) due: Instant,
}

/// The sessions that wait for their clients.
pub(crate) struct Sessions {
    limit: usize,
    metrics: Arc<Metrics>,
    store: Mutex<Store>,
}

#[derive(Default)]
struct Store {
    sessions: HashMap<Arc<str>, Stored>,
    by_age: BTreeMap<u64, Arc<str>>,
    next: u64,
}

impl Sessions {
    pub(crate) fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            limit,
            metrics,
            store: Mutex::default(),
        }
    }

    /// Keeps a session; returns the wills of those that had to go for it.
    #[must_use]
    pub(crate) fn put(
        &self,
        client_id: &str,
        session: Session,
        expiry: u32,
        will: Option<PendingWill>,
        now: Instant,
    ) -> Vec<PendingWill> {
        session.mailbox.set_online(false);
        let expires = (expiry != FOREVER).then(|| now + Duration::from_secs(expiry.into()));
        let mut store = self.store.lock();
        let mut gone = Vec::new();
        gone.extend(store.remove(client_id));
        let order = store.next;
        store.next += 1;
        let id: Arc<str> = client_id.into();
        store.by_age.insert(order, Arc::clone(&id));
        store.sessions.insert(
            id,
            Stored {
                session,
                will,
                expires,
                order,
            },
        );
        while store.sessions.len() > self.limit {
            let Some(oldest) = store.by_age.values().next().cloned() else {
                break;
            };
            gone.extend(store.remove(&oldest));
            self.metrics.drop_message("stored_session");
        }
        self.metrics.sessions_stored.set(store.sessions.len() as i64);
        drop(store);
        gone.into_iter().filter_map(|stored| stored.will).collect()
    }

    /// Hands out the session of a client that is back.
    pub(crate) fn take(&self, client_id: &str) -> Option<Stored> {
        let mut store = self.store.lock();
        let stored = store.remove(client_id)?;
        self.metrics.sessions_stored.set(store.sessions.len() as i64);
        Some(stored)
    }

    /// Lets go of sessions that are over; returns the wills that are due.
    pub(crate) fn expire(&self, now: Instant) -> Vec<PendingWill> {
        let mut store = self.store.lock();
        let over = |stored: &Stored| stored.expires.is_some_and(|at| at <= now);
        let ids: Vec<_> = store
            .sessions
            .iter()
            .filter(|(_, stored)| over(stored))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        let ended: Vec<_> = ids.iter().filter_map(|id| store.remove(id)).collect();
        let mut due: Vec<_> = store
            .sessions
            .values_mut()
            .filter_map(|stored| stored.will.take_if(|will| will.due <= now))
            .collect();
        self.metrics.sessions_stored.set(store.sessions.len() as i64);
        drop(store);
        due.extend(ended.into_iter().filter_map(|stored| stored.will));
        due
    }
}

impl Store {
    fn remove(&mut self, client_id: &str) -> Option<Stored> {
        let stored = self.sessions.remove(client_id)?;
        self.by_age.remove(&stored.order);
        Some(stored)
    }
}
