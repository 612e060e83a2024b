//! Placeholder of the crate root, replaced as the crate is written.
