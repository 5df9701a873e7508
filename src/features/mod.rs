//! Stage 2: the rows of the entities a request names, from the nearest layer that has them.
pub mod row;
pub mod set;
pub use row::Row;
pub use set::FeatureSet;

#[derive(Debug)]
#[doc = ""]
pub struct Store;
impl Store {
    pub(crate) async fn open(_: &crate::config::Config, _: crate::app::Tasks) -> anyhow::Result<Self> {
        Ok(Self)
    }
    pub(crate) async fn fetch(
        &self,
        _: &crate::infer::InferRequest,
        _: &crate::infer::Plan,
    ) -> Result<FeatureSet, crate::infer::Error> {
        Ok(FeatureSet::default())
    }
    pub(crate) async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}
impl FeatureSet {
    pub(crate) fn level(&self) -> Option<crate::infer::Level> {
        None
    }
    pub(crate) fn take_degraded(&mut self) -> Vec<crate::infer::Degradation> {
        vec![]
    }
    pub(crate) fn take_caches(&mut self) -> Vec<crate::infer::CacheEvent> {
        vec![]
    }
}
