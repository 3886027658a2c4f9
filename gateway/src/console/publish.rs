//! Publishing one message for the person at the console.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use twinlane::{Channel, MessageOptions};

use super::{Shared, answer, problem};

/// A text of the largest reliable message, where JSON writes half of it with escapes.
const BODY_BYTES_MAX: usize = 2 << 20;
/// A topic whose readers hold it up keeps its publishers waiting; a person waits no longer.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publication {
    topic: String,
    text: String,
    key: Option<String>,
}

pub(super) async fn publish(State(console): State<Arc<Shared>>, request: Request) -> Response {
    let Ok(body) = to_bytes(request.into_body(), BODY_BYTES_MAX).await else {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "the request has more than 2 MiB");
    };
    let publication: Publication = match serde_json::from_slice(&body) {
        Ok(publication) => publication,
        Err(error) => {
            return problem(StatusCode::BAD_REQUEST, &format!("a message is {{topic, text, key?}}: {error}"));
        }
    };
    match tokio::time::timeout(WAIT, put(&console, &publication)).await {
        Ok(Ok(value)) => answer(StatusCode::OK, &value),
        Ok(Err(error)) => problem(StatusCode::CONFLICT, &error.to_string()),
        Err(_) => {
            problem(StatusCode::GATEWAY_TIMEOUT, "not published within 5 s: readers hold this topic up")
        }
    }
}

async fn put(
    console: &Shared,
    Publication { topic, text, key }: &Publication,
) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let mut publisher = console.session.publisher(topic).await?;
    let mut options = MessageOptions::default();
    if let Some(key) = key {
        options = options.with_key(fnv_1a(key.as_bytes()));
    }
    let ack = publisher.publish_with(text.as_bytes(), options).await?;
    let channel = if publisher.spec().channel == Channel::Fast { "fast" } else { "reliable" };
    Ok(json!({ "seq": ack.seq, "offset": ack.offset, "channel": channel }))
}

/// The hash that `twinlane pub --key` has for a key's text.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::fnv_1a;

    #[test]
    fn a_key_has_the_published_fnv_1a_hash_of_its_text() {
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
