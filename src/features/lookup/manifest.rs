//! The manifest: the small JSON that names a view's current data file and says what is in it.
//!
//! It is the only object that is ever overwritten, in one put, so a reader sees the old file or the new one and never parts of
//! both. Unknown keys are ignored: a later version may add some. A manifest that is not for the view asked, or whose numbers
//! cannot be a file's, is refused.

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::format::{self, Layout};
use crate::{
    config::View,
    infer::{EntityType, FeatureType},
};

/// What `manifest.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// [`format::VERSION`].
    pub(crate) format: u32,
    pub(crate) project: String,
    pub(crate) view: String,
    /// The data file's name, beside the manifest.
    pub(crate) data: String,
    /// The data file's length in bytes.
    pub(crate) size: u64,
    /// xxh3-128 of the whole data file, in hex.
    pub(crate) checksum: String,
    pub(crate) rows: u64,
    pub(crate) buckets: u64,
    /// Where the directory begins in the data file.
    pub(crate) directory: u64,
    /// In the order of the serialized key.
    pub(crate) join_keys: Vec<Field>,
    /// In the order of a record's cells.
    pub(crate) features: Vec<Field>,
    /// When it was built, RFC 3339.
    pub(crate) created: String,
    /// What it was built from.
    pub(crate) source: String,
}

/// A column's name and its type, as Feast calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Field {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Not JSON, or keys are missing.
    #[error("the manifest cannot be read")]
    Json(#[from] serde_json::Error),
    /// It says something that does not fit.
    #[error("the manifest does not fit: {0}")]
    Unfit(String),
}

impl Manifest {
    /// Reads a manifest and checks that it is `view`'s and can be true.
    ///
    /// # Errors
    /// [`Refused`] says what does not fit.
    pub(crate) fn parse(bytes: &[u8], project: &str, view: &View) -> Result<Self, Refused> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.fits(project, view).map_err(Refused::Unfit)?;
        Ok(manifest)
    }

    fn fits(&self, project: &str, view: &View) -> Result<(), String> {
        if self.format != format::VERSION {
            return Err(format!("format is {}, this version reads {}", self.format, format::VERSION));
        }
        if self.project != project || self.view != *view.name {
            return Err(format!(
                "it is for view {:?} of project {:?}, not {:?} of {project:?}",
                self.view, self.project, view.name
            ));
        }
        if self.join_keys != join_keys(view) {
            return Err(format!(
                "its join keys are {}, the config's {}",
                list(&self.join_keys),
                list(&join_keys(view))
            ));
        }
        let layout = self.layout();
        if !layout.is_plausible() || layout.file_bytes() != self.size || (self.buckets == 0) != (self.rows == 0) {
            return Err(format!(
                "{} buckets and a directory at {} do not make {} bytes",
                self.buckets, self.directory, self.size
            ));
        }
        if self.data.contains('/') {
            return Err(format!("data file {:?} is not beside it", self.data));
        }
        Ok(())
    }

    /// Where things are in the data file.
    pub(crate) fn layout(&self) -> Layout {
        Layout { buckets: self.buckets, directory: self.directory }
    }

    /// Where each feature of `view` is among a record's cells; `None`: the file does not have it.
    ///
    /// # Errors
    /// The file has a feature as another type than the config says.
    pub(crate) fn cells_of(&self, view: &View) -> Result<Vec<Option<usize>>, String> {
        let place = |name: &str, kind: FeatureType| {
            let Some(at) = self.features.iter().position(|field| field.name == name) else { return Ok(None) };
            if self.features[at].kind == kind.name() {
                return Ok(Some(at));
            }
            Err(format!("feature {name:?} is {} in the lookup file and {kind} in the config", self.features[at].kind))
        };
        view.features.iter().map(|feature| place(&feature.name, feature.kind)).collect()
    }
}

fn list(fields: &[Field]) -> String {
    let words: Vec<_> = fields.iter().map(|field| format!("{} {}", field.name, field.kind)).collect();
    format!("({})", words.join(", "))
}

/// The join keys as the manifest names them.
pub(crate) fn join_keys(view: &View) -> Vec<Field> {
    let field = |(name, kind): &(_, EntityType)| Field {
        name: String::from(AsRef::<str>::as_ref(name)),
        kind: kind.to_string(),
    };
    view.entities.iter().map(field).collect()
}

/// The features as the manifest names them.
pub(crate) fn features(view: &View) -> Vec<Field> {
    let features = view.features.iter();
    features.map(|feature| Field { name: feature.name.to_string(), kind: feature.kind.to_string() }).collect()
}

/// The folder of a view's objects under a store's root.
pub(crate) fn folder(root: &Path, project: &str, view: &str) -> Path {
    root.clone().join(project).join(view)
}

/// The manifest's place in a view's folder.
pub(crate) fn path(folder: &Path) -> Path {
    folder.clone().join("manifest.json")
}
