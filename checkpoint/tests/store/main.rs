//! Tests of the store through its public API: one module a subject.

mod support;

mod damage;
mod files;
mod history;
mod hostile;
mod power;
