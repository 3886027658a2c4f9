//! `twinlane queue` as its users meet it: commands that do jobs, single jobs, lists, dead letters.

use std::process::Output;

use serde_json::Value;

use crate::cli::Server;
use crate::world::within;

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only queue group of `topic`.
async fn row(server: &Server, topic: &str) -> Value {
    let list: Value =
        serde_json::from_str(&text(&server.run(&["queue", "ls", "--json"], b"").await)).unwrap();
    list["queues"].as_array().unwrap().iter().find(|row| row["topic"] == topic).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_printed_or_pulled_and_counted() {
    let server = Server::start().await;
    text(&server.run(&["pub", "work", "--reliable"], b"one\ntwo\nthree\nfour\n").await);
    let printed = server.run(&["queue", "work", "work", "crew", "--count", "2"], b"").await;
    assert_eq!(text(&printed), "one\ntwo\n");
    let pulled = server
        .run(&["queue", "pull", "work", "crew", "--count", "9", "--wait", "300ms", "--json"], b"")
        .await;
    let pulled = objects(&pulled);
    let payloads: Vec<_> = pulled.iter().map(|job| job["payload"].as_str().unwrap()).collect();
    assert_eq!(payloads, ["three", "four"]);
    assert_eq!((&pulled[0]["offset"], &pulled[0]["attempt"]), (&2.into(), &1.into()));
    let row = row(&server, "work").await;
    assert_eq!((&row["settled"], &row["ready"], &row["members"]), (&4.into(), &0.into(), &0.into()), "{row}");
    assert!(text(&server.run(&["queue", "ls"], b"").await).contains("crew"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commands_exit_status_is_its_verdict_and_dead_letters_can_be_tried_again() {
    let server = Server::start().await;
    text(&server.run(&["pub", "work", "--reliable"], b"good\nbad\n").await);
    let script = "read line; echo $TWINLANE_TOPIC/$TWINLANE_OFFSET/$TWINLANE_ATTEMPT; test $line = good";
    let work = ["queue", "work", "work", "crew", "--max-deliver", "1", "--count", "2"];
    let worked = server.client(&work).args(["--", "sh", "-c", script]).output();
    let worked = within("the work", worked).await.unwrap();
    assert_eq!(text(&worked), "work/0/1\nwork/1/1\n");
    let said = String::from_utf8_lossy(&worked.stderr);
    assert!(said.contains("job 1: the command failed"), "{said}");

    let dead = server.run(&["queue", "dead", "work", "crew", "--json"], b"").await;
    let [letter] = &objects(&dead)[..] else { panic!("one letter: {dead:?}") };
    assert_eq!((&letter["payload"], &letter["headers"]["twinlane-offset"]), (&"bad".into(), &"1".into()));
    assert!(letter["headers"]["twinlane-error"].as_str().unwrap().contains("exit status: 1"), "{letter}");

    text(&server.run(&["queue", "dead", "work", "crew", "--retry"], b"").await);
    text(&server.run(&["queue", "dead", "work", "crew", "--retry"], b"").await);
    let again = server.run(&["queue", "pull", "work", "crew", "--count", "9", "--wait", "300ms"], b"").await;
    assert_eq!(text(&again), "bad\n", "tried again once, not twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_killed_worker_go_to_the_next_one() {
    let server = Server::start().await;
    text(&server.run(&["pub", "work", "--reliable"], b"precious\n").await);
    let mut doomed = server.client(&["queue", "work", "work", "crew"]);
    let mut doomed = doomed.args(["--", "sleep", "20"]).spawn().unwrap();
    let in_flight = async { while row(&server, "work").await["in_flight"] != 1 {} };
    within("the job to be taken", in_flight).await;
    doomed.start_kill().unwrap();
    within("its end", doomed.wait()).await.unwrap();
    let job = server.run(&["queue", "pull", "work", "crew", "--json"], b"").await;
    let job = &objects(&job)[0];
    assert_eq!((&job["payload"], &job["attempt"]), (&"precious".into(), &2.into()));
}
