//! One struct of resolved metric handles a stage. The raw macros are used here and nowhere else.

pub mod features;
