//! Files that hold secrets: nobody else may read them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::exit::{Code, Failure};

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// More than any file of ours holds.
const LEN_MAX: u64 = 64 * 1024;

/// The text of a file that only its owner can read.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error| Failure::file(path, &error);
    // The file that is looked at is the one that is read.
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() && metadata.mode() & OTHERS != 0 {
        let path = path.display();
        return Err(Failure::new(
            Code::Config,
            format!(
                "{path} holds a secret and can be read by others (mode {:03o}): chmod 600 {path}",
                metadata.permissions().mode() & 0o777
            ),
        ));
    }
    let mut text = Zeroizing::new(String::with_capacity(LEN_MAX as usize));
    (&mut file).take(LEN_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a file that only its owner can read, in place of what was there. It is
/// there whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::file(path, &error);
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&draft);
        failed(error)
    })
}

/// Makes a directory that only its owner can enter, and those above it.
pub fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::new(Code::CannotCreate, format!("{}: {error}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_for_its_owner_only() {
        let dir = std::env::temp_dir().join(format!("evermux-private-{}", std::process::id()));
        let path = dir.join("below/secret");
        write(&path, "old").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(**read(&path).unwrap(), *"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.join("below")).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.code, Code::Config);
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }
}
