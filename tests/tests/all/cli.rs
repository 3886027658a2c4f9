//! The `twinlane` binary as its users meet it: pipes, signals, exit codes, JSON.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::world::within;

/// The binary, built once from what is checked out, with this test's own profile and target directory.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut build = std::process::Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "-p", "twinlane-server", "--target-dir"])
            .arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the binary does not build");
        profile.join("twinlane")
    })
}

/// A running server and what its clients need to reach it.
pub(crate) struct Server {
    child: Child,
    addr: String,
    dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, addr) = serve(dir.path(), "127.0.0.1:0").await;
        Self { child, addr, dir }
    }

    /// Another process on the same port with the same identity.
    async fn restart(&mut self) {
        (self.child, self.addr) = serve(self.dir.path(), &self.addr.clone()).await;
    }

    /// A client command that trusts this server.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.args(["--server", &self.addr, "--known-hosts"]).arg(self.dir.path().join("known_hosts"));
        command
    }

    pub(crate) async fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.client(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).await.unwrap();
        drop(stdin);
        within("the command's end", child.wait_with_output()).await.unwrap()
    }
}

/// A command of the binary, with pipes on all sides.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn serve(dir: &Path, listen: &str) -> (Child, String) {
    let mut command = command(&["serve", "--listen", listen, "--data-dir"]);
    let mut child = command.arg(dir.join("data")).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(rest) = line.trim().strip_prefix("listening") {
                return rest.split_whitespace().next().unwrap().to_owned();
            }
        }
        panic!("the server does not listen");
    };
    let addr = within("the server's address", addr).await;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, addr)
}

pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// A subscriber that is known to be subscribed.
struct Sub {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Option<ChildStderr>,
}

impl Sub {
    async fn start(server: &Server, args: &[&str]) -> Self {
        let mut child = server.client(args).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let errors = child.stderr.take();
        let sub = Self { child, lines, errors };
        let topic = args[1];
        let subscribed = async {
            loop {
                let status = server.run(&["explain", topic, "--json"], b"").await;
                let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
                if status["subscribers"].as_array().is_some_and(|rows| !rows.is_empty()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the subscription", subscribed).await;
        sub
    }

    async fn line(&mut self) -> String {
        within("a line", self.lines.next_line()).await.unwrap().expect("the subscriber goes on")
    }

    /// Waits for its end; returns the exit code and what it said.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        within("the end", self.errors.take().unwrap().read_to_string(&mut said)).await.unwrap();
        (within("the end", self.child.wait()).await.unwrap().code(), said)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_lines_come_out_as_they_went_in() {
    const LINES: usize = 100_000;
    let server = Server::start().await;
    let input: String = (0..LINES).map(|line| format!("line {line} {}\n", "é·".repeat(line % 7))).collect();
    let sub = Sub::start(&server, &["sub", "pipe", "--reliable", "-n", "100000"]).await;
    let Sub { child, lines, .. } = sub;
    let mut output = lines.into_inner();
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        output.read_to_end(&mut got).await.unwrap();
        got
    });
    let published = server.run(&["pub", "pipe", "-", "--json"], input.as_bytes()).await;
    assert_eq!(published.status.code(), Some(0), "{}", String::from_utf8_lossy(&published.stderr));
    let got = within("the lines", reading).await.unwrap();
    assert!(got == input.as_bytes(), "{} bytes came out of {}", got.len(), input.len());
    drop(child);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pub_and_sub_survive_a_killed_server_and_say_so() {
    let mut server = Server::start().await;
    let mut sub = Sub::start(&server, &["sub", "stream", "--reliable"]).await;
    let mut publisher = server.client(&["pub", "stream", "-"]).spawn().unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let write = async |input: &mut tokio::process::ChildStdin, from: u32| {
        let lines: String = (from..from + 100).map(|line| format!("{line}\n")).collect();
        input.write_all(lines.as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    };
    write(&mut input, 0).await;
    for line in 0..100 {
        assert_eq!(sub.line().await, line.to_string());
    }
    signal(&server.child, "-KILL");
    within("its death", server.child.wait()).await.unwrap();
    server.restart().await;
    write(&mut input, 100).await;
    drop(input);
    // The publisher may not have heard of its last lines' acks when the server died: it sends those again.
    let mut expected = 100;
    while expected < 200 {
        let line: u32 = sub.line().await.parse().unwrap();
        assert!(line == expected || (expected == 100 && line < 100), "{line} instead of {expected}");
        expected = expected.max(line + 1);
    }
    signal(&sub.child, "-INT");
    let published = within("the publisher", publisher.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&published.stderr).into_owned();
    assert_eq!(published.status.code(), Some(0), "{said}");
    assert!(said.contains("lost the connection") && said.contains("connected to"), "{said}");
    let (code, said) = sub.end().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("lost the connection") && said.contains("connected to"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_server_says_goodbye_and_exits_with_0() {
    let mut server = Server::start().await;
    let sub = Sub::start(&server, &["sub", "t", "--reliable", "--no-reconnect"]).await;
    signal(&server.child, "-TERM");
    assert_eq!(within("the server's end", server.child.wait()).await.unwrap().code(), Some(0));
    let (code, said) = sub.end().await;
    assert_ne!(code, Some(0), "a stream that was cut off is no success: {said}");
    assert!(said.contains("shut"), "the subscriber is told: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_as_documented() {
    let server = Server::start().await;
    let code = async |args: &[&str]| server.run(args, b"").await.status.code();
    assert_eq!(code(&["pub", "t", "hello"]).await, Some(0));
    assert_eq!(code(&["pub", "bad//name", "hello"]).await, Some(2));
    assert_eq!(code(&["pub", "--no-such-flag"]).await, Some(2));
    assert_eq!(code(&["req", "nobody", "question", "--timeout", "50ms"]).await, Some(4));
    assert_eq!(code(&["pub", "t", "hello", "--fast"]).await, Some(4), "t is reliable");
    let mut unreachable =
        command(&["pub", "t", "hello", "--plain", "--server", "127.0.0.1:1", "--no-reconnect"]);
    let output = within("the command", unreachable.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_output_is_one_object_per_line() {
    let server = Server::start().await;
    let mut sub = Sub::start(&server, &["sub", "j", "--reliable", "--json", "-n", "2"]).await;
    assert_eq!(server.run(&["pub", "j", "-"], b"one\n\"two\"\n").await.status.code(), Some(0));
    for (offset, payload) in [(0, "one"), (1, "\"two\"")] {
        let line: serde_json::Value = serde_json::from_str(&sub.line().await).unwrap();
        assert_eq!(
            (line["offset"].as_u64(), line["payload"].as_str()),
            (Some(offset), Some(payload)),
            "{line}"
        );
        assert_eq!(line["topic"], "j");
    }
    assert_eq!(sub.end().await.0, Some(0));
    for args in [&["status", "--json"][..], &["topics", "--json"], &["explain", "j", "--json"]] {
        let output = server.run(args, b"").await;
        let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&output.stdout);
        assert!(
            parsed.is_ok_and(|value| value.is_object()),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_connections_looks_at_a_server_process_of_its_own() {
    for transport in [&["--transport", "tcp"][..], &["--transport", "quic"], &["--plain"]] {
        let mut bench =
            command(&["bench", "connections", "--subscribers", "20", "--duration", "200ms", "--json"]);
        let output = within("the run", bench.args(transport).output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{transport:?}: {said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let figures = &report["results"][0]["connections"];
        assert_eq!(figures["connections"], 20, "{transport:?}: {report}");
        assert!(figures["accepted_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
        assert!(figures["server_bytes_per_connection"].as_f64().is_some(), "{report}");
        assert!(figures["idle_cpu_percent"].as_f64().is_some_and(|percent| percent < 100.0), "{report}");
    }
}
