//! For tests of Engine.IO alone.

use crate::gateway::{Gateway, GatewayError};
use crate::options::GatewayOptions;
use crate::shared::Source;

/// A gateway that sends every message back to whom it came from.
///
/// # Errors
///
/// As [`Gateway::bind`].
pub async fn echo(options: GatewayOptions) -> Result<Gateway, GatewayError> {
    Gateway::start(Source::Echo, options).await
}
