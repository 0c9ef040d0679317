//! Where files are: the XDG base directories, unless the environment says
//! otherwise.

use std::env;
use std::path::PathBuf;

use etcetera::{BaseStrategy, base_strategy::Xdg};

use crate::exit::{Code, Failure};

fn xdg() -> Result<Xdg, Failure> {
    Xdg::new().map_err(|error| {
        Failure::new(Code::Config, format!("no home directory: {error}; set HOME"))
    })
}

/// Known links, and this user's own key.
pub fn config() -> Result<PathBuf, Failure> {
    match env::var_os("EVERMUX_CONFIG_DIR") {
        Some(dir) => Ok(dir.into()),
        None => Ok(xdg()?.config_dir().join("evermux")),
    }
}

/// An agent's identity. systemd says where, if the unit has `StateDirectory=`.
pub fn state() -> Result<PathBuf, Failure> {
    if let Some(dir) = env::var_os("STATE_DIRECTORY") {
        return Ok(dir.into());
    }
    let xdg = xdg()?;
    // XDG on Linux always has one.
    Ok(xdg.state_dir().unwrap_or_else(|| xdg.data_dir()).join("evermux"))
}

/// Control sockets of running agents and clients.
pub fn control() -> Result<PathBuf, Failure> {
    for name in ["EVERMUX_CONTROL_DIR", "RUNTIME_DIRECTORY"] {
        if let Some(dir) = env::var_os(name) {
            return Ok(dir.into());
        }
    }
    match xdg()?.runtime_dir() {
        Some(dir) => Ok(dir.join("evermux")),
        None => Ok(state()?.join("run")),
    }
}
