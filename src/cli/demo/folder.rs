//! The demo's temporary folder, readable by its owner only and removed when dropped.
//!
//! A process that is killed leaves it behind; the system's cleaning of its temporary folder takes it then.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// A folder that lives as long as this value.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes a new folder in the system's temporary one; never takes over one that is there.
    pub(super) fn create() -> io::Result<Self> {
        let name = format!("weir-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().canonicalize()?.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the demo's folder stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_all_that_is_in_it() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        fs::create_dir(path.join("lookup")).unwrap();
        fs::write(path.join("lookup/file"), "x").unwrap();
        assert!(path.is_absolute());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn two_demos_do_not_share_one() {
        let (one, other) = (Folder::create().unwrap(), Folder::create().unwrap());
        assert_ne!(one.path(), other.path());
    }
}
