//! Every file of `fuzz/corpus` once more, in a plain `cargo test`.

use std::fs;
use std::path::Path;

/// Runs `target` on each file in its folder of the corpus.
fn replay(folder: &str, target: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        // A packaged crate comes without.
        return;
    }
    let folder = fuzz.join("corpus").join(folder);
    let entries = fs::read_dir(&folder).expect("the corpus is there");
    let files: Vec<_> = entries.map(|entry| entry.expect("a file of it").path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        // Shown when the test fails: the last one is the culprit.
        println!("{}", file.display());
        target(&fs::read(file).expect("a file that can be read"));
    }
}

#[test]
fn the_corpus_of_frames_holds() {
    replay("frame", super::frame);
}

#[test]
fn the_corpus_of_sessions_holds() {
    replay("session", super::session);
}

#[test]
fn the_corpus_of_resumes_holds() {
    replay("resume", super::resume);
}
