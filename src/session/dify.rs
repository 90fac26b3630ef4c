//! The plugin protocol of Dify.

mod wire;
