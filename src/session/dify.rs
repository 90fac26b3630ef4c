//! The plugin protocol of Dify.

pub(crate) mod wire;
