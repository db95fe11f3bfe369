//! Tests of the store through its public API: one module a subject.

mod support;

mod files;
mod history;
mod power;
