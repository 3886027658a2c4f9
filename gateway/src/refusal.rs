//! Why a request is refused, in Engine.IO's numbers and words.

use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// A request that is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("Transport unknown")]
    UnknownTransport,
    #[error("Session ID unknown")]
    UnknownSession,
    #[error("Bad handshake method")]
    BadMethod,
    #[error("Bad request")]
    BadRequest,
    #[error("Forbidden")]
    ForeignOrigin,
    #[error("{0}")]
    NotAllowed(String),
    #[error("Unsupported protocol version")]
    UnsupportedVersion,
    #[error("Payload too large")]
    TooLarge,
    #[error("Request timeout")]
    TooSlow,
    #[error("Server is closing")]
    Closing,
    #[error("Too many sessions")]
    Full,
}

impl Refusal {
    /// The HTTP answer.
    pub(crate) fn response(&self) -> Response<Body> {
        let body = serde_json::json!({ "code": self.code(), "message": self.to_string() });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::ForeignOrigin | Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Closing | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The reference's number; what it has none for is a bad request.
    fn code(&self) -> u8 {
        match self {
            Self::UnknownTransport => 0,
            Self::UnknownSession => 1,
            Self::BadMethod => 2,
            Self::BadRequest | Self::TooLarge | Self::TooSlow | Self::Closing | Self::Full => 3,
            Self::ForeignOrigin | Self::NotAllowed(_) => 4,
            Self::UnsupportedVersion => 5,
        }
    }
}
