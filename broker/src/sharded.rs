//! A map from text to values behind many locks, so that connections rarely meet at one.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::RwLock;

const SHARDS: usize = 64;

/// One shard of a [`Sharded`].
pub(crate) type Shard<V> = HashMap<Arc<str>, V>;

/// A concurrent map.
pub(crate) struct Sharded<V> {
    hasher: DefaultHashBuilder,
    shards: Vec<RwLock<Shard<V>>>,
}

impl<V> Default for Sharded<V> {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self {
            hasher: DefaultHashBuilder::default(),
            shards,
        }
    }
}

impl<V> Sharded<V> {
    /// The shard that holds this key, if any does.
    pub(crate) fn shard(&self, key: &str) -> &RwLock<Shard<V>> {
        // The map inside uses the low and the topmost bits of its own hash; which these are does not matter here.
        let hash = self.hasher.hash_one(key) >> 32;
        &self.shards[hash as usize % SHARDS]
    }

    /// All shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = &RwLock<Shard<V>>> {
        self.shards.iter()
    }
}
