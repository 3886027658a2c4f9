//! `twinlane-netlab`: runs two programs, and between them a link that loses, delays and throttles.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::{Child, Command, ExitCode, Stdio},
};

use clap::Parser;
use twinlane_netlab::{Lab, LabError, Link, Side};

const EXAMPLES: &str = "\
Links:
  clean                                 nothing is done to packets
  loss=1%,rtt=20ms,jitter=2ms           random loss, delay, and delay that varies
  loss=5%,burst=8                       losses come in bursts of 8 packets on average
  rate=1mbit,queue=64KiB                what waits for the rate, and is dropped beyond
  reorder=5%/10ms,duplicate=1%          packets that are overtaken, packets that come twice
  mtu=1280,block=udp                    larger packets vanish; UDP vanishes
  up:loss=2%,down:rate=10mbit           one direction: up is right to left, down is left to right

Examples:
  twinlane-netlab --link loss=1%,rtt=20ms -- iperf3 -s :: iperf3 -c {left}
  twinlane-netlab --link rate=1mbit -- twinlane serve --listen {left}:4747 :: sh
  twinlane-netlab --link rtt=50ms -- sleep 9 :: ping -c 3 {left}

Each command may use {left} and {right}, the addresses of the two sides; the environment has them too, as NETLAB_LEFT and
NETLAB_RIGHT. The lab lasts until the right command has ended; the left one is ended then. It needs root.";

/// Run two commands with a bad network between them
#[derive(Debug, Parser)]
#[command(name = "twinlane-netlab", version, after_help = EXAMPLES)]
struct Args {
    /// What the link between the two does
    #[arg(long, default_value = "clean", value_name = "LINK")]
    link: Link,
    /// What is random is the same for the same seed
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Do not tell on standard error what the link did
    #[arg(long)]
    quiet: bool,
    /// LEFT-COMMAND :: RIGHT-COMMAND
    #[arg(last = true, required = true, value_name = "COMMANDS")]
    commands: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Without standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "twinlane-netlab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut sides = args.commands.split(|word| word == "::");
    let (Some(left), Some(right), None) = (sides.next(), sides.next(), sides.next()) else {
        return Err("give two commands with :: between them, as in -- iperf3 -s :: iperf3 -c {left}".into());
    };
    let lab = Lab::start(args.link, args.seed)?;
    let mut server =
        Running(command(&lab, lab.left(), left)?.stdin(Stdio::null()).spawn().map_err(LabError::NoNsenter)?);
    let mut client = Running(command(&lab, lab.right(), right)?.spawn().map_err(LabError::NoNsenter)?);
    let ended = client.0.wait()?;
    if !args.quiet {
        writeln!(io::stderr(), "{}\n{}", lab.link(), lab.counts())?;
    }
    // It may have ended by itself.
    let _ = server.0.kill();
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A command that ends with the lab, also where the other one does not start.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(lab: &Lab, side: &Side, words: &[String]) -> Result<Command, Box<dyn std::error::Error>> {
    let (left, right) = (lab.left().addr().to_string(), lab.right().addr().to_string());
    let filled = |word: &String| word.replace("{left}", &left).replace("{right}", &right);
    let (program, arguments) = words.split_first().ok_or("a command is missing beside ::")?;
    let mut command = side.command(&filled(program));
    command.args(arguments.iter().map(filled)).env("NETLAB_LEFT", &left).env("NETLAB_RIGHT", &right);
    Ok(command)
}
