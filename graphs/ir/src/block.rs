//! Block-quantised formats: their layout and exact decoding.
