//! Links by name, and every other way to say which link is meant.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::exit::{Code, Failure};
use crate::link::Link;
use crate::log::TOLD;
use crate::{places, private_file};

/// The variable that stands in for a link.
pub const VARIABLE: &str = "EVERMUX_LINK";

/// Finds the link that `word` means: a link, `@FILE`, `-` for standard input, or
/// a name. Without a word, that of `EVERMUX_LINK`, which may be any of these.
pub fn find(word: Option<&str>) -> Result<Link, Failure> {
    match word {
        Some(word) => find_word(word),
        None => {
            let word = std::env::var(VARIABLE).map(Zeroizing::new).map_err(|_| {
                Failure::new(
                    Code::Usage,
                    format!(
                        "no link: name one, or set {VARIABLE} (`evermux link list` shows names)"
                    ),
                )
            })?;
            find_word(&word)
        }
    }
}

fn find_word(word: &str) -> Result<Link, Failure> {
    if word == "-" {
        return from_stdin();
    }
    if let Some(path) = word.strip_prefix('@') {
        return Link::parse(&private_file::read(Path::new(path))?);
    }
    if word.contains("://") {
        return Link::parse(word);
    }
    let path = path_of(word)?;
    if !path.exists() {
        return Err(Failure::new(
            Code::NoInput,
            format!(
                "no link is called {word:?}: `evermux link add {word}` adds one, `link list` lists them"
            ),
        ));
    }
    Link::parse(&private_file::read(&path)?)
}

/// Reads a link from standard input.
pub fn from_stdin() -> Result<Link, Failure> {
    if std::io::stdin().is_terminal() {
        tracing::info!(target: TOLD, "paste the link, then press Enter and Ctrl-D");
    }
    let mut text = Zeroizing::new(String::with_capacity(4096));
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(Code::Io, format!("standard input: {error}")))?;
    Link::parse(&text)
}

/// Whether others could read this word on a command line and use the link.
pub fn is_secret(word: &str) -> bool {
    word.contains("://")
}

pub fn add(name: &str, link: &Link) -> Result<PathBuf, Failure> {
    let path = path_of(name)?;
    private_file::write(&path, &format!("{}\n", *link.to_text()))?;
    Ok(path)
}

pub fn remove(name: &str) -> Result<(), Failure> {
    let path = path_of(name)?;
    fs::remove_file(&path).map_err(|error| Failure::file(&path, &error))
}

/// All names, sorted.
pub fn names() -> Result<Vec<String>, Failure> {
    let dir = dir()?;
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::file(&dir, &error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_name(name)).collect();
    names.sort();
    Ok(names)
}

fn dir() -> Result<PathBuf, Failure> {
    Ok(places::config()?.join("links"))
}

fn path_of(name: &str) -> Result<PathBuf, Failure> {
    if !is_name(name) {
        return Err(Failure::new(
            Code::Usage,
            format!("{name:?} is no name of a link: letters, digits, - and _ make one"),
        ));
    }
    Ok(dir()?.join(name))
}

/// Nothing that could lead elsewhere in the file system.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["home", "a-b_9"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "..", "a/b", "-x", "a b", "é", ".hidden"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
