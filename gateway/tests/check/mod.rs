//! What must hold for any bytes of a client. The fuzz targets and the ordinary tests run the same functions.

pub(crate) mod engine_io;
pub(crate) mod msgpack;
pub(crate) mod native_events;
pub(crate) mod socket_io;
pub(crate) mod websocket;
