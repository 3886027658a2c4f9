//! What must hold for any bytes. The fuzz targets and the ordinary tests run the same functions.

pub(crate) mod control;
pub(crate) mod datagram;
pub(crate) mod message;
pub(crate) mod session;
pub(crate) mod stream;
pub(crate) mod topic;
