//! The list in a file: replaced as one step, and read only if it can be a list.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use super::{Error, LARGEST};

/// Puts a list in the place of the file: a new file beside it, flushed, takes its name, and the folder is flushed. Whoever reads
/// meanwhile, or after a crash, finds the one or the other, and whole. Only this user may read it.
///
/// # Errors
///
/// The file system's; what was there stays.
pub(crate) fn replace(path: &Path, list: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".weir-keys-").tempfile_in(folder)?;
    file.write_all(list)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

/// The list in the file.
///
/// # Errors
///
/// There is none, or what is there cannot be one.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    // Asked before it is opened: opening a pipe would wait for a writer.
    let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing,
        _ => error.into(),
    })?;
    if !meta.is_file() {
        return Err(Error::Damaged("not a file"));
    }
    if meta.len() > LARGEST as u64 {
        return Err(Error::TooLarge(meta.len()));
    }
    let mut list = Vec::new();
    // It may have grown since.
    File::open(path)?.take(LARGEST as u64 + 1).read_to_end(&mut list)?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for list in ["one", "another"] {
            replace(&path, list.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap(), list.as_bytes());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_there_stays_when_nothing_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("no/such/folder/keys");
        assert_eq!(replace(&nowhere, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        // A folder in the file's place: the new file cannot take its name, and goes.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        replace(&taken, b"x").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_can_be_no_list_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let told = |name: &str| read(&folder.path().join(name)).unwrap_err().to_string();
        assert_eq!(told("missing"), "nothing is saved there yet");
        assert_eq!(told("."), "damaged: not a file");
        File::create(folder.path().join("large")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(told("large"), "1099511627776 bytes long; allowed: up to 16777216");
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(told("pipe"), "damaged: not a file");
    }
}
