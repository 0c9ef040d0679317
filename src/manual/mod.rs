//! wip
pub mod protocol {
    //! wip
}
