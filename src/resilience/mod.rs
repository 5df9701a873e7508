//! Mechanisms against failure and overload. Pure: no I/O, no metrics, no domain types; time and randomness are arguments.

pub mod flight;
