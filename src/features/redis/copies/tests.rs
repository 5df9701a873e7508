use std::collections::HashSet;

use super::*;
use crate::{
    features::{redis::topology::Topology, tests::key},
    infer::EntityKey,
    telemetry::scratch,
};
