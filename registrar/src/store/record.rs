//! The stored records.
