//! What programs have in common with their clients, and what of them can be tested without a district. Nothing here
//! uses the SDK: it defines what a program for no operating system must have, which a test cannot be linked with.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod notes;
pub mod tally;
