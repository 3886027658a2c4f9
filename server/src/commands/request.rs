//! `twinlane req`: one question, one answer.

use std::io::{self, IsTerminal as _, Write as _};

use crate::args::ReqArgs;
use crate::client::Client;
use crate::failure::Interrupted;
use crate::input::Blocks;
use crate::output;

/// No topic takes a larger question unless its server was told to.
const QUESTION_BYTES_MAX: usize = 16 << 20;

/// Asks and prints the answer.
pub(crate) async fn run(args: ReqArgs) -> anyhow::Result<()> {
    let question = match args.message {
        Some(message) if message != "-" => message.into_bytes(),
        _ => Blocks::of_stdin()?.all(QUESTION_BYTES_MAX).await?,
    };
    let mut client = Client::connect(&args.client).await?;
    let answer = tokio::select! {
        answer = client.session.request(args.topic.as_str(), &question, args.timeout) => answer.map_err(anyhow::Error::from),
        () = client.interrupt.wait() => Err(Interrupted.into()),
    };
    client.close().await;
    let answer = answer?;
    let mut out = io::stdout().lock();
    if args.raw {
        out.write_all(answer.payload())?;
    } else if out.is_terminal() {
        writeln!(out, "{}", output::for_terminal(answer.payload()))?;
    } else {
        out.write_all(answer.payload())?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
