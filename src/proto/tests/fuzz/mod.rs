//! The core as the fuzzer drives it.

mod forge;
mod resume;
mod session;

pub use resume::resume;
pub use session::session;
