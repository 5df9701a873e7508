//! Placeholder until the lookup files land.

use std::sync::Arc;

use super::Row;
use crate::{
    config::{L3, View},
    infer::EntityKey,
};

/// The lookup files of an object store.
#[derive(Debug)]
pub struct Store {}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not there yet.
    #[error("no lookup files at {0}")]
    Missing(String),
}

impl Store {
    pub(crate) async fn open(config: &L3, _project: &str, _views: &[Arc<View>]) -> Result<Self, Error> {
        Err(Error::Missing(config.url.clone()))
    }

    pub(crate) async fn get(&self, view: &View, _key: &EntityKey) -> Result<Option<Row>, Error> {
        Err(Error::Missing(view.name.to_string()))
    }
}
