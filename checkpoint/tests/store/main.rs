//! Tests of the store through its public API: one module a subject.

mod support;

mod damage;
mod document;
mod files;
mod golden;
mod history;
mod hostile;
mod lineage;
mod power;
