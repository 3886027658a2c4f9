//! Browsers and Socket.IO clients for twinlane.
//!
//! A [`Gateway`] is an HTTP server that speaks Engine.IO 4 and Socket.IO 5, as the official clients do, over HTTP
//! long-polling and WebSocket. What clients do there are the events of [`twinlane::events`]; which of its answers go to
//! whom is decided there, never here.

#![forbid(unsafe_code)]

mod admission;
mod application;
pub mod console;
mod driver;
mod engine_io;
mod gateway;
mod http;
mod line;
mod listener;
mod mailbox;
mod options;
mod origin;
pub mod pages;
mod pipe;
mod polling;
mod query;
mod refusal;
mod session;
mod shared;
mod socket_io;
mod status;
mod stream;
#[doc(hidden)]
pub mod testing;
mod websocket;
mod webtransport;

pub use axum::Router;
pub use gateway::{Gateway, GatewayError};
pub use options::{AllowRequest, GatewayOptions, HttpLimits};
pub use origin::Origins;
pub use socket_io::Parser;
pub use status::{ByTransport, Closed, GatewayStatus, Refused};

/// The decoders, for fuzzing.
#[doc(hidden)]
pub mod fuzzing {
    pub mod engine_io {
        pub use crate::engine_io::*;
    }
    pub mod frame {
        pub use crate::websocket::frame::*;
    }
    pub mod socket_io {
        pub use crate::socket_io::*;
    }
}
