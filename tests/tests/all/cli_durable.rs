//! Durable topics as the users of the `twinlane` binary meet them: kill −9, times, and tools for the log.
//!
//! What the engine promises of durable topics is tested without the binary, in `durable`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::{self, command};
use crate::world::within;

/// A server's home, and the server while it runs.
struct World {
    dir: tempfile::TempDir,
    server: Option<Child>,
    addr: String,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { dir, server: None, addr: "127.0.0.1:0".to_owned() };
        world.serve().await;
        world
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the server, on the port it had before; returns what it says of durable topics.
    async fn serve(&mut self) -> String {
        let mut child =
            command(&["serve", "--listen", &self.addr, "--data"]).arg(self.data()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let banner = async {
            let mut durable = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(rest) = line.trim().strip_prefix("listening") {
                    self.addr = rest.split_whitespace().next().unwrap().to_owned();
                }
                if let Some(rest) = line.trim().strip_prefix("durable") {
                    durable = rest.trim().to_owned();
                }
                if line.starts_with("connect with") {
                    return durable;
                }
            }
            panic!("the server does not listen");
        };
        let durable = within("the server's start", banner).await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.server = Some(child);
        durable
    }

    /// Ends the server: `-KILL` as a crash would, `-TERM` as an operator would.
    async fn stop(&mut self, signal: &str) {
        let mut server = self.server.take().unwrap();
        cli::signal(&server, signal);
        within("the server's end", server.wait()).await.unwrap();
    }

    /// A client command that trusts this server.
    async fn client(&self, args: &[&str], input: &[u8]) -> Output {
        let mut client = command(args);
        client.args(["--server", &self.addr, "--known-hosts"]).arg(self.dir.path().join("known_hosts"));
        run(client, input).await
    }

    async fn publish(&self, topic: &str, input: &[u8]) -> Value {
        let published = self.client(&["pub", topic, "-", "--durable", "--json"], input).await;
        assert_eq!(published.status.code(), Some(0), "{}", said(&published));
        serde_json::from_slice(&published.stderr).unwrap()
    }
}

async fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = async {
        // Whoever does not read its input says so by its exit code.
        let _closed = stdin.write_all(input).await;
        drop(stdin);
    };
    let (output, ()) =
        within("the command's end", async { tokio::join!(child.wait_with_output(), feeding) }).await;
    output.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|line| format!("line {line} {}\n", "é·".repeat(line % 7))).collect::<String>().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_lines_come_back_from_a_server_that_was_killed() {
    let input = lines(0..100_000);
    let mut world = World::start().await;
    let summary = world.publish("lines", &input).await;
    assert_eq!((&summary["acked"], &summary["level"]), (&100_000.into(), &"disk".into()), "{summary}");
    world.stop("-KILL").await;
    let durable = world.serve().await;
    assert_eq!(durable, format!("{}, 1 topic", world.data().join("log").display()));
    let got = world.client(&["sub", "lines", "--from", "all", "-n", "100000"], b"").await;
    assert_eq!(got.status.code(), Some(0), "{}", said(&got));
    assert!(got.stdout == input, "{} bytes came out of {}", got.stdout.len(), input.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_from_a_time_begins_with_what_was_stored_then() {
    let mut world = World::start().await;
    for line in ["early\n", "late\n"] {
        world.publish("times", line.as_bytes()).await;
    }
    world.stop("-KILL").await;
    world.serve().await;
    let all = world.client(&["sub", "times", "--from", "1h", "-n", "2", "--timestamps"], b"").await;
    let text = String::from_utf8(all.stdout).unwrap();
    // Published after the first one was acknowledged, so stored later than it.
    let (late_time, _) = text.lines().nth(1).unwrap().split_once(' ').unwrap();
    let late = world.client(&["sub", "times", "--from", late_time, "-n", "1"], b"").await;
    assert_eq!(late.stdout, b"late\n", "from {late_time} of {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_data_directory_a_durable_topic_is_refused_in_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("twinlane.toml");
    fs::write(&file, "[[topic]]\nname = \"a\"\nchannel = \"reliable\"\ndurable = true\n").unwrap();
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--config"]);
    serve.arg(&file);
    let refused = run(serve, b"").await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("--data-dir"), "{}", said(&refused));
}

async fn log_tool(args: &[&str], dir: &Path) -> (Option<i32>, Output) {
    let mut tool = command(&["log"]);
    let output = run(
        {
            tool.args(args).arg(dir);
            tool
        },
        b"",
    )
    .await;
    (output.status.code(), output)
}

async fn checked(dir: &Path) -> (Option<i32>, Value) {
    let (code, output) = log_tool(&["check", "--json"], dir).await;
    (code, serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output))))
}

/// Flips one bit of the only place in the log that has `text`; returns the segment's number and the byte.
fn flip(log: &Path, text: &[u8]) -> (u64, u64) {
    for entry in fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(number) = name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".log")) else {
            continue;
        };
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            return (u64::from_str_radix(number, 16).unwrap(), at as u64);
        }
    }
    panic!("the text is in no segment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_found_and_repaired_and_the_topic_begins_a_new_epoch() {
    let mut world = World::start().await;
    // Each is a record of its own, because each is acknowledged before the next one is sent.
    for line in ["first", "second", "third", "fourth"] {
        world.publish("a", format!("{line}\n").as_bytes()).await;
    }
    world.stop("-TERM").await;
    let (code, before) = checked(&world.data()).await;
    assert_eq!((code, &before["sound"], &before["topics"][0]["next"]), (Some(0), &true.into(), &4.into()));
    let (_, dump) = log_tool(&["dump", "--payload", "--topic", "a", "--from", "2"], &world.data()).await;
    let text = String::from_utf8(dump.stdout).unwrap();
    assert!(text.lines().count() == 2 && text.contains("third") && text.contains("fourth"), "{text}");

    let log = world.data().join("log");
    let (segment, at) = flip(&log, b"second");
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--data"]);
    serve.arg(world.data());
    let refused = run(serve, b"").await;
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains(&format!("segment {segment} is damaged")), "{}", said(&refused));
    let (code, damaged) = checked(&log).await;
    let found = &damaged["damage"][0];
    assert_eq!((code, &found["segment"]), (Some(1), &segment.into()), "{damaged}");
    let (position, resumes_at) = (found["position"].as_u64().unwrap(), found["resumes_at"].as_u64().unwrap());
    assert!((position..resumes_at).contains(&at), "byte {at}: {damaged}");

    let (code, asked) = log_tool(&["repair"], &log).await;
    assert_eq!(code, Some(2), "{}", said(&asked));
    assert_eq!(checked(&log).await.1, damaged, "without --yes nothing changes");
    let (code, repaired) = log_tool(&["repair", "--yes"], &log).await;
    assert_eq!(code, Some(0), "{}", said(&repaired));
    assert!(String::from_utf8_lossy(&repaired.stdout).contains("a lost offsets 1..2"), "{repaired:?}");
    let (code, after) = checked(&log).await;
    assert_eq!(code, Some(0), "{after}");
    assert_ne!(after["topics"][0]["epoch"], before["topics"][0]["epoch"]);

    world.serve().await;
    let got = world.client(&["sub", "a", "--from", "all", "-n", "3"], b"").await;
    assert_eq!(got.stdout, b"first\nthird\nfourth\n", "{}", said(&got));
}
