//! The commands, a file each.
pub mod demo;
pub mod offline;
pub mod serve;
