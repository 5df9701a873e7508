//! TODO
use super::*;
#[derive(Debug)]
pub(super) struct Scripted;
impl Scripted {
    pub(super) async fn get(&self, _ask: &Ask) -> Result<Option<Row>, object::Error> {
        Ok(None)
    }
}
