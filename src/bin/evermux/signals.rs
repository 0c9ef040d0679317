//! The signals that ask the program to end.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Code, Failure};

/// Waits for Ctrl-C, a hang-up, or what `kill` sends.
pub async fn asked_to_end() -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::new(Code::System, format!("signals: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}
