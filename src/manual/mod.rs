//! The manual.
//!
//! | chapter | what it answers |
//! |---|---|
//! | [`guarantees`] | What survives what? What is bounded, and by which setting? What may be cancelled? |
//! | [`tuning`] | Which window, budget or timeout do I change, and to what? |
//! | [`security`] | Who can do what to a session? What is checked, what is limited, what is out of scope? |
//! | [`origin`] | I know coder's `backedpipe`: where is its `X` here? |
//! | [`protocol`] | What goes over the wire, byte by byte, so that another implementation can speak it? |
//!
//! Begin with [`guarantees`]. Whoever writes another implementation, or reads a
//! comment that cites a rule such as `P-12`, wants [`protocol`].

/// What survives what, what does not, and the bound of everything.
pub mod guarantees {
    #![doc = include_str!("guarantees.md")]
}

/// From coder's `backedpipe` to this crate.
pub mod origin {
    #![doc = include_str!("origin.md")]
}

/// The protocol on the wire, version 1.
pub mod protocol {
    #![doc = include_str!("protocol.md")]
}

/// The threat model, and what stands against it.
pub mod security {
    #![doc = include_str!("security.md")]
}

/// Windows, budgets and timeouts.
pub mod tuning {
    #![doc = include_str!("tuning.md")]
}
