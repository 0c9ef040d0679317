//! wip
#![forbid(unsafe_code)]
pub mod manual {
    //! x
    pub mod protocol {
        //! x
    }
}
mod code;
mod crypto;
mod id;
mod misbehaved;
mod proto;
mod wire;
pub use misbehaved::PeerMisbehaved;
