//! Packages with a fault each, which the checker must find.
