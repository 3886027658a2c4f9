//! Fast topics from the command line: declaring them, keys, deadlines, and what is refused with which advice.

use std::process::Output;

use serde_json::Value;

use crate::cli::Server;

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_declared_with_mode_and_deadline_and_explained() {
    let server = Server::start().await;
    let declare = ["topics", "declare", "positions", "--mode", "latest", "--deadline", "50ms"];
    for _ in 0..2 {
        let declared = server.run(&declare, b"").await;
        assert_eq!(code(&declared), Some(0), "declaring it again changes nothing: {}", said(&declared));
        for part in ["fast (latest)", "50ms in queues", "newest message of each key", "64.0 KiB"] {
            assert!(said(&declared).contains(part), "{part} is missing in: {}", said(&declared));
        }
    }
    let explained = server.run(&["explain", "positions", "--json"], b"").await;
    let status: Value = serde_json::from_slice(&explained.stdout).unwrap();
    assert_eq!((&status["mode"], &status["deadline_us"]), (&"latest".into(), &50_000.into()));

    let other = server.run(&["topics", "declare", "positions", "--fast", "--deadline", "1s"], b"").await;
    assert_eq!(code(&other), Some(4), "{}", said(&other));
    assert!(said(&other).contains("latest"), "{}", said(&other));
    let large = server.run(&["topics", "declare", "large", "--fast", "--payload", "2MiB"], b"").await;
    assert_eq!(code(&large), Some(4), "{}", said(&large));
    assert!(said(&large).contains("at most 1048576"), "{}", said(&large));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_with_the_last_of_a_latest_topic_gets_the_newest_of_each_key() {
    let server = Server::start().await;
    for (key, lines) in [("a", "a1\na2\n"), ("b", "b1\n"), ("c", "c1\nc2\nc3\n")] {
        let publish = ["pub", "states", "-", "--mode", "latest", "--key", key];
        let published = server.run(&publish, lines.as_bytes()).await;
        assert_eq!(code(&published), Some(0), "{}", said(&published));
    }
    let subscribed = server.run(&["sub", "states", "--from", "last", "-n", "3"], b"").await;
    let mut values: Vec<String> =
        String::from_utf8_lossy(&subscribed.stdout).lines().map(str::to_owned).collect();
    values.sort();
    assert_eq!(values, ["a2", "b1", "c3"], "{}", said(&subscribed));
    assert!(said(&subscribed).contains("3 messages, 0 lost"), "{}", said(&subscribed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_for_fast_topics_and_who_asks_for_one_elsewhere_is_told_what_to_do() {
    let server = Server::start().await;
    let unknown = server.run(&["pub", "new", "x", "--deadline", "50ms"], b"").await;
    assert_eq!(code(&unknown), Some(2), "{}", said(&unknown));
    assert!(said(&unknown).contains("add --fast"), "{}", said(&unknown));
    let published = server.run(&["pub", "new", "x", "--deadline", "50ms", "--fast"], b"").await;
    assert_eq!(code(&published), Some(0), "it was not declared by the refusal: {}", said(&published));

    assert_eq!(code(&server.run(&["pub", "orders", "x"], b"").await), Some(0));
    let reliable = server.run(&["pub", "orders", "x", "--deadline", "50ms"], b"").await;
    assert_eq!(code(&reliable), Some(2), "{}", said(&reliable));
    assert!(said(&reliable).contains("publish on a fast topic"), "{}", said(&reliable));
    let declared = server.run(&["topics", "declare", "new", "--durable", "--deadline", "1s"], b"").await;
    assert_eq!(code(&declared), Some(2), "{}", said(&declared));
    assert!(said(&declared).contains("--age 1m"), "{}", said(&declared));
}
