//! `twinlane sub`: messages to standard output, everything about them to standard error.
//!
//! A batch of deliveries becomes one write; what waits is written before the command sleeps.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde::Serialize;
use twinlane::{Batch, Code, DeliveryRef, SubscribeOptions, Subscription, SubscriptionStats};

use crate::args::SubArgs;
use crate::client::Client;
use crate::failure::Ended;
use crate::message_text::{Format, Printer};
use crate::output;

/// Written at once when this much waits, even while more keeps coming.
const WRITE_BYTES: usize = 256 << 10;

/// Reads until the end, the count, an interruption, or until nobody reads standard output.
pub(crate) async fn run(args: SubArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.client).await?;
    let mut options = SubscribeOptions::default();
    options.start = args.from;
    options.slow = args.slow;
    options.spec = args.channel.spec();
    let mut subscription = client.session.subscribe_with(args.filter.as_str(), options).await?;

    let started = Instant::now();
    let mut reader = Reader {
        printer: Printer::new(Format::of(&args, io::stdout().is_terminal())),
        written: 0,
        count_max: args.count.unwrap_or(u64::MAX),
        quiet: args.client.quiet,
    };
    let outcome = tokio::select! {
        outcome = reader.read(&mut subscription) => outcome,
        () = client.interrupt.wait() => Ok(()),
    };
    let outcome = outcome.and_then(|()| reader.flush());
    let stats = subscription.stats();
    let end = subscription.end();
    if !args.client.quiet {
        tell(&stats, reader.written, started.elapsed(), args.json)?;
    }
    subscription.close().await;
    client.close().await;
    match (outcome, end) {
        (Err(error), _) => Err(error.into()),
        (Ok(()), Some(end)) if reader.written < reader.count_max && end.code != Code::Normal => {
            Err(Ended { code: end.code, reason: end.to_string() }.into())
        }
        _ => Ok(()),
    }
}

struct Reader {
    printer: Printer,
    /// Messages taken from the subscription.
    written: u64,
    count_max: u64,
    quiet: bool,
}

impl Reader {
    async fn read(&mut self, subscription: &mut Subscription) -> io::Result<()> {
        while self.written < self.count_max {
            let batch = match subscription.next_batch().now_or_never() {
                Some(batch) => batch,
                None => {
                    // Nothing waits: what there is must be seen before this sleeps.
                    self.flush()?;
                    subscription.next_batch().await
                }
            };
            let Some(batch) = batch else { return Ok(()) };
            self.take(&batch)?;
            if self.printer.waiting_bytes() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn take(&mut self, batch: &Batch) -> io::Result<()> {
        for delivery in batch.iter() {
            let notice = match delivery {
                DeliveryRef::Message(_) if self.written == self.count_max => return Ok(()),
                DeliveryRef::Message(message) => {
                    self.printer.message(&message)?;
                    self.written += 1;
                    None
                }
                DeliveryRef::Gap(gap) => self.printer.gap(gap)?,
                DeliveryRef::Resumed { topic, outcome } => self.printer.resumed(topic, outcome)?,
                _ => None,
            };
            if let Some(line) = notice {
                self.notice(&line)?;
            }
        }
        Ok(())
    }

    /// A line beside the messages, at its place among them.
    fn notice(&mut self, line: &str) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.flush()?;
        output::notice(output::styled(output::stderr_is_terminal(), output::WARNING, line));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.printer.write_to(&mut out)?;
        out.flush()
    }
}

/// The summary as JSON.
#[derive(Serialize)]
struct Summary<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    stats: &'a SubscriptionStats,
    written: u64,
    seconds: f64,
}

fn tell(stats: &SubscriptionStats, written: u64, elapsed: Duration, json: bool) -> io::Result<()> {
    if json {
        let seconds = elapsed.as_secs_f64();
        output::notice(serde_json::to_string(&Summary { r#type: "summary", stats, written, seconds })?);
        return Ok(());
    }
    output::notice(summary(stats, written, elapsed));
    Ok(())
}

/// What came, and what did not and why: on a fast topic the counts add up to what was published.
fn summary(stats: &SubscriptionStats, written: u64, elapsed: Duration) -> String {
    let (time, rate) = (output::rounded_time(elapsed), output::rounded_rate(written, elapsed));
    let counted = [
        (stats.lost, "lost"),
        (stats.late, "late"),
        (stats.expired, "expired"),
        (stats.coalesced, "replaced by newer ones"),
        (stats.dropped_slow, "dropped because this reader was slow"),
        (stats.no_route, "given up while there was no connection"),
        (stats.not_retained, "no longer kept by the server"),
    ];
    let delivered = std::iter::once(output::counted(written, "message"));
    let lost = if stats.lost == 0 { "0 lost".to_owned() } else { String::new() };
    let rest = counted.into_iter().filter(|(count, _)| *count > 0);
    let rest = rest.map(|(count, what)| format!("{} {what}", output::thousands(count)));
    let resumes = if stats.resumes == 0 {
        String::new()
    } else {
        format!("{} survived", output::counted(stats.resumes, "reconnection"))
    };
    let parts = output::joined(delivered.chain([lost]).chain(rest).chain([resumes]));
    format!("{parts} in {time} ({rate})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_did_not_come_and_why() {
        let mut stats = SubscriptionStats::default();
        let second = Duration::from_secs(1);
        assert!(summary(&stats, 7, second).starts_with("7 messages, 0 lost in "));
        (stats.lost, stats.late, stats.expired, stats.coalesced, stats.dropped_slow) = (1, 2, 3, 4_000, 5);
        let expected = "7 messages, 1 lost, 2 late, 3 expired, 4,000 replaced by newer ones, \
                        5 dropped because this reader was slow in ";
        assert!(summary(&stats, 7, second).starts_with(expected), "{}", summary(&stats, 7, second));
    }
}
