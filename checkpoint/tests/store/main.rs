//! Tests of the store through its public API: one module a subject.

// Clippy's own exception for tests covers only functions that carry `#[test]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod damage;
mod document;
mod files;
mod golden;
mod history;
mod hostile;
mod lineage;
mod power;
