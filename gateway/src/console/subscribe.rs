//! Watching topics: their messages as a stream of events, and once a second how many there were and how old.
//!
//! A watcher holds nobody up: what comes too fast to be read is counted instead of shown, and one whose connection
//! stands still is cut off by the topic, not the topic's publishers held back.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};
use twinlane::{
    Batch, Code, DeliveryRef, EndReason, MessageView, OpenError, SlowPolicy, SubscribeOptions, Subscription,
};

use super::{Shared, problem};
use crate::pages;
use crate::query::Query;

/// Messages shown in a second; nobody reads more.
const SHOWN_PER_SECOND: u64 = 50;
/// Bytes of a message that are shown.
const PREVIEW_BYTES: usize = 2 << 10;
/// Topics that are told apart in a second.
const TOPICS_MAX: usize = 1_000;
/// Latencies kept for a topic in a second: the last ones.
const SAMPLES_MAX: usize = 4_096;

pub(super) async fn subscribe(State(console): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(&query.unwrap_or_default());
    let Some(filter) = query.get("topic").map(str::to_owned) else {
        return problem(StatusCode::BAD_REQUEST, "which topic? Add ?topic=NAME or a filter");
    };
    let shows_messages = query.get("show") != Some("none");
    let Ok(permit) = Arc::clone(&console.subscriptions).try_acquire_owned() else {
        return problem(
            StatusCode::TOO_MANY_REQUESTS,
            "the console has 16 subscriptions already: close another page",
        );
    };
    let subscription = match open(&console, &filter).await {
        Ok(subscription) => subscription,
        Err(error) => return problem(StatusCode::CONFLICT, &error.to_string()),
    };
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        closed: console.closed.subscribe(),
        console,
        filter,
        shows_messages,
        subscription: Some(subscription),
        ticks,
        second: Second::default(),
        _permit: permit,
    };
    let events = stream::unfold(watch, |mut watch| async move {
        let events = watch.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(events)), watch))
    });
    let mut response = Response::new(Body::from_stream(events));
    pages::protect(response.headers_mut());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

async fn open(console: &Shared, filter: &str) -> Result<Subscription, OpenError> {
    let mut options = SubscribeOptions::default();
    options.slow = SlowPolicy::Disconnect;
    console.session.subscribe_with(filter, options).await
}

/// One person's view of some topics.
struct Watch {
    console: Arc<Shared>,
    filter: String,
    shows_messages: bool,
    /// `None` when it has ended and that was told.
    subscription: Option<Subscription>,
    ticks: Interval,
    second: Second,
    closed: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

/// What came since the last tick.
#[derive(Default)]
struct Second {
    topics: BTreeMap<String, Samples>,
    shown: u64,
    skipped: u64,
}

#[derive(Default)]
struct Samples {
    messages: u64,
    latencies_us: Vec<u64>,
}

impl Watch {
    /// The next events, as text; `None` when there are no more.
    async fn next(&mut self) -> Option<String> {
        let subscription = self.subscription.as_mut()?;
        let mut out = String::new();
        loop {
            tokio::select! {
                batch = subscription.next_batch() => match batch {
                    Some(batch) => self.second.take(&batch, self.shows_messages, &mut out),
                    None => {
                        let why = subscription.end();
                        self.ended(why, &mut out).await;
                        return Some(out);
                    }
                },
                () = async { drop(self.closed.wait_for(|is_closed| *is_closed).await) } => {
                    self.subscription = None;
                    event(&mut out, "end", &json!({ "why": "the server is stopping" }));
                    return Some(out);
                }
                _ = self.ticks.tick() => {
                    event(&mut out, "second", &self.second.take_summary());
                    return Some(out);
                }
            }
            if !out.is_empty() {
                return Some(out);
            }
        }
    }

    /// Whoever only measures begins again when it was too slow; a reader is told.
    async fn ended(&mut self, why: Option<EndReason>, out: &mut String) {
        self.subscription = match why {
            Some(EndReason { code: Code::SlowConsumer, .. }) if !self.shows_messages => {
                open(&self.console, &self.filter).await.ok()
            }
            _ => None,
        };
        if self.subscription.is_none() {
            let why = why.map_or_else(|| "the subscription ended".to_owned(), |why| why.to_string());
            event(out, "end", &json!({ "why": why }));
        }
    }
}

impl Second {
    fn take(&mut self, batch: &Batch, shows_messages: bool, out: &mut String) {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64);
        let room = self.topics.len() < TOPICS_MAX;
        let topic = batch.topic().to_string();
        let mut samples =
            (room || self.topics.contains_key(&topic)).then(|| self.topics.entry(topic).or_default());
        for delivery in batch.iter() {
            match delivery {
                DeliveryRef::Message(view) => {
                    let latency_us = now_us.saturating_sub(view.time_us());
                    if let Some(samples) = &mut samples {
                        samples.add(latency_us);
                    }
                    if shows_messages && self.shown < SHOWN_PER_SECOND {
                        self.shown += 1;
                        event(out, "message", &message(&view, latency_us));
                    } else {
                        self.skipped += u64::from(shows_messages);
                    }
                }
                DeliveryRef::Gap(gap) if shows_messages => {
                    let cause = gap.cause.to_string();
                    event(
                        out,
                        "gap",
                        &json!({ "topic": gap.topic.as_ref(), "messages": gap.count(), "cause": cause }),
                    );
                }
                _ => {}
            }
        }
    }

    fn take_summary(&mut self) -> Value {
        let Self { topics, skipped, .. } = std::mem::take(self);
        let topics: serde_json::Map<_, _> =
            topics.into_iter().map(|(name, samples)| (name, samples.summary())).collect();
        json!({ "topics": topics, "skipped": skipped })
    }
}

impl Samples {
    fn add(&mut self, latency_us: u64) {
        if self.latencies_us.len() < SAMPLES_MAX {
            self.latencies_us.push(latency_us);
        } else {
            self.latencies_us[self.messages as usize % SAMPLES_MAX] = latency_us;
        }
        self.messages += 1;
    }

    fn summary(mut self) -> Value {
        self.latencies_us.sort_unstable();
        let last = self.latencies_us.len().saturating_sub(1);
        let percentile = |percent: usize| self.latencies_us.get(last * percent / 100).copied().unwrap_or(0);
        json!({
            "messages": self.messages,
            "p50_us": percentile(50),
            "p99_us": percentile(99),
            "max_us": percentile(100),
        })
    }
}

fn message(view: &MessageView<'_>, latency_us: u64) -> Value {
    let payload = view.payload();
    let preview = &payload[..payload.len().min(PREVIEW_BYTES)];
    let mut value = json!({
        "topic": view.topic().as_ref(),
        "offset": view.offset(),
        "latency_us": latency_us,
        "bytes": payload.len(),
        // A key has 64 bits, which JavaScript's numbers do not hold.
        "key": view.key().map(|key| format!("{key:016x}")),
    });
    match text(preview) {
        Some(text) => value["text"] = json!(text),
        None => value["base64"] = json!(STANDARD.encode(preview)),
    }
    value
}

/// The text that `bytes` are; a character that the preview cuts through is left out.
fn text(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && bytes.len() == PREVIEW_BYTES => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// Adds an event. JSON has no line breaks of its own, so one line of data holds it.
fn event(out: &mut String, kind: &str, data: &Value) {
    let _infallible = write!(out, "event: {kind}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_samples() {
        let mut samples = Samples::default();
        (0..SAMPLES_MAX as u64).for_each(|_| samples.add(1_000_000));
        (1..=SAMPLES_MAX as u64).for_each(|latency_us| samples.add(latency_us));
        let summary = samples.summary();
        assert_eq!((&summary["messages"], &summary["p50_us"]), (&json!(8_192), &json!(2_048)));
        assert_eq!((&summary["p99_us"], &summary["max_us"]), (&json!(4_055), &json!(4_096)));
        assert_eq!(Samples::default().summary()["max_us"], 0);
    }

    #[test]
    fn a_preview_that_cuts_through_a_character_is_text_still() {
        let long = "ä".repeat(PREVIEW_BYTES);
        let cut = &long.as_bytes()[1..=PREVIEW_BYTES];
        assert_eq!(text(&long.as_bytes()[..PREVIEW_BYTES]).map(str::len), Some(PREVIEW_BYTES));
        assert_eq!(text(cut), None, "it begins in the middle of one");
        let shifted = format!("a{long}");
        assert_eq!(text(&shifted.as_bytes()[..PREVIEW_BYTES]).map(str::len), Some(PREVIEW_BYTES - 1));
        assert_eq!(text(b"\xff"), None);
    }
}
