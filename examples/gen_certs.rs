//! Makes the development certificates that examples and tests use.
//!
//! ```text
//! cargo run --example gen_certs              # into certs/ of this repository
//! cargo run --example gen_certs -- --force   # replaces those that are there
//! cargo run --example gen_certs -- DIR       # elsewhere
//! ```
//!
//! You should see the names of five files. They are for trying things out on
//! one machine, never for production; see `certs/README.md`.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "dev_certs/mod.rs"]
mod dev_certs;

fn main() -> ExitCode {
    let mut dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/certs"));
    let mut force = false;
    for arg in std::env::args_os().skip(1) {
        match arg.to_str() {
            Some("--force") => force = true,
            Some(option) if option.starts_with('-') => {
                eprintln!("usage: gen_certs [--force] [DIR]");
                return ExitCode::from(2);
            }
            _ => dir = arg.into(),
        }
    }

    let removed = if force { dev_certs::remove(&dir) } else { Ok(()) };
    match removed.and_then(|()| dev_certs::generate(&dir)) {
        Ok(_) => {
            for name in ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"] {
                println!("{}", dir.join(name).display());
            }
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            eprintln!("{error}; --force replaces the whole set");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
