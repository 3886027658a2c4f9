//! One file per command: each takes its arguments and runs to its end.

mod completions;
mod config;
mod inspect;
mod log;
mod publish;
mod queue;
mod reply;
mod request;
mod serve;
mod subscribe;

use crate::args::{Command, TopicsAction};

/// Runs a command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Config(args) => return config::run(&args),
        Command::Completions { shell } => return completions::run(shell),
        Command::Log(args) => return log::run(&args),
        _ => {}
    }
    // Two workers: one for the connection, one for the session's other work; the command itself runs here.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve::run(args).await,
            Command::Pub(args) => publish::run(args).await,
            Command::Sub(args) => subscribe::run(args).await,
            Command::Req(args) => request::run(args).await,
            Command::Reply(args) => reply::run(args).await,
            Command::Queue(args) => queue::run(*args).await,
            Command::Topics(args) => match args.action {
                Some(TopicsAction::Declare(declare)) => inspect::declare(*declare).await,
                None => inspect::topics(args).await,
            },
            Command::Status(args) => inspect::status(args).await,
            Command::Explain(args) => inspect::explain(args).await,
            Command::Bench(args) => twinlane_bench::cli::run(*args).await,
            Command::Config(_) | Command::Completions { .. } | Command::Log(_) => {
                unreachable!("these ran above, without a runtime")
            }
        }
    });
    // A thread that waits for a terminal must not keep the program alive.
    runtime.shutdown_background();
    outcome
}
