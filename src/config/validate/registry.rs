//! Feast's registry in place of the file's views: where it is, and whether it can be read.

use std::time::Duration;

use super::{Check, Views, url};
use crate::config::{
    Supplied,
    problems::Path,
    raw,
    registry::{self, Contents, Reading, Versions},
};

/// What the registry's shortest interval is.
const SHORTEST: Duration = Duration::from_secs(1);

impl Check<'_> {
    /// What the registry has; `None`: the file names none, or it cannot be read.
    pub(super) fn registry(
        &mut self,
        path: &Path,
        raw: &raw::Features,
        supplied: Supplied<'_>,
        keep: Duration,
    ) -> Option<Contents> {
        let at = path.key("registry");
        if raw.registry_refresh.0 < SHORTEST {
            self.wrong(&path.key("registry_refresh"), "too short", "1s or more");
        }
        if raw.versioned_views && raw.l3.is_some() {
            let wrong = "beside `l3`: a lookup file is of a view, whatever its version";
            self.wrong(&path.key("versioned_views"), wrong, "one or the other");
        }
        let url = raw.registry.as_deref()?;
        if !raw.views.is_empty() {
            self.wrong(&at, "beside `views`", "the registry's views or the file's own, not both");
        }
        let read = url::registry(url).map_err(|wrong| (wrong, url::REGISTRY.to_owned())).and_then(|()| {
            let bytes = match supplied {
                Supplied::Bytes(bytes) => bytes,
                Supplied::Nothing(why) => return Err((format!("cannot be read: {why}"), url::REGISTRY.to_owned())),
            };
            let versions = if raw.versioned_views { Versions::Apart } else { Versions::Together };
            let reading = Reading { project: raw.project.as_deref(), versions, keep };
            registry::read(bytes, &reading).map_err(|refused| (refused.to_string(), refused.allowed()))
        });
        match read {
            Ok(contents) => Some(contents),
            Err((wrong, allowed)) => {
                self.views = Views::Unknown;
                self.wrong(&at, wrong, allowed);
                None
            }
        }
    }
}
