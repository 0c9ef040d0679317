//! Keys on disk: the agent's identity, the secret of its link, and a client's
//! own key.

use std::path::Path;

use evermux::{Fingerprint, Identity};

use crate::exit::{Code, Failure};
use crate::link::Secret;
use crate::{places, private_file};

/// The agent's key and certificate, made on first start.
pub fn agent_identity(state: &Path) -> Result<Identity, Failure> {
    let path = state.join("agent.pem");
    if path.exists() {
        let pem = private_file::read(&path)?;
        return Identity::from_pem(pem.as_bytes(), pem.as_bytes())
            .map_err(|error| Failure::new(Code::Data, format!("{}: {error}", path.display())));
    }
    let identity = new_identity()?;
    let mut pem = identity.private_key_pem();
    pem.push_str(&identity.certificate_pem());
    private_file::write(&path, &pem)?;
    Ok(identity)
}

/// An identity that nobody has seen before.
pub fn new_identity() -> Result<Identity, Failure> {
    Identity::self_signed(&[]).map_err(|error| Failure::new(Code::System, error.to_string()))
}

/// The secret of the agent's link, made on first start. Who deletes the file
/// revokes the link.
pub fn link_secret(state: &Path) -> Result<Secret, Failure> {
    stored_secret(&state.join("link-secret"))
}

/// This user's own key, for agents that list it as authorized. Made on first use.
pub fn own_identity() -> Result<Identity, Failure> {
    let secret = stored_secret(&places::config()?.join("key"))?;
    secret.identity().map_err(|error| Failure::new(Code::System, error.to_string()))
}

fn stored_secret(path: &Path) -> Result<Secret, Failure> {
    if path.exists() {
        let hex = private_file::read(path)?;
        return Secret::from_hex(hex.trim()).ok_or_else(|| {
            let path = path.display();
            Failure::new(Code::Data, format!("{path} is damaged: delete it, and a new one is made"))
        });
    }
    let secret = Secret::random()?;
    private_file::write(path, &secret.to_hex())?;
    Ok(secret)
}

/// The clients that an `--authorized` file lists: a fingerprint a line, as
/// `evermux key` prints it, then anything. `#` begins a comment.
pub fn authorized(path: &Path) -> Result<Vec<Fingerprint>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let mut clients = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(word) = line.split_whitespace().next() else { continue };
        let client = word.parse().map_err(|error| {
            let place = format!("{}:{}", path.display(), number + 1);
            Failure::new(Code::Data, format!("{place}: {error}"))
        })?;
        clients.push(client);
    }
    Ok(clients)
}
