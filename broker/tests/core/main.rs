//! The broker's rules, tried with several districts in one process, without any machine around them.

#[cfg(test)]
mod world;

#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod failure;
#[cfg(test)]
mod host_objects;
#[cfg(test)]
mod invocation;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod model;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod revocation;
#[cfg(test)]
mod start;
