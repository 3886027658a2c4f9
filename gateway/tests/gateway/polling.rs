//! HTTP long-polling.

use std::time::Duration;

use crate::client::*;

#[tokio::test]
async fn a_session_opens_with_what_its_client_has_to_know() {
    let gateway = echo(|_| {}).await;
    let reply = get(gateway.addr(), "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=UTF-8"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let sid = sid(&reply.body);
    let rest = r#""upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1048576}"#;
    assert_eq!(reply.body, format!(r#"0{{"sid":"{sid}",{rest}"#));
    assert_eq!(gateway.status().open.polling, 1);
}

#[tokio::test]
async fn the_path_is_served_with_and_without_its_last_slash_and_no_other() {
    let gateway = echo(|_| {}).await;
    for (target, status) in [
        ("/socket.io/?EIO=4&transport=polling", 200),
        ("/socket.io?EIO=4&transport=polling", 200),
        ("/socket.i?EIO=4&transport=polling", 404),
        ("/socket.io/x?EIO=4&transport=polling", 404),
        ("/?EIO=4&transport=polling", 404),
    ] {
        assert_eq!(get(gateway.addr(), target).await.status, status, "{target}");
    }
    let gateway = echo(|options| options.path = "mine".into()).await;
    assert_eq!(get(gateway.addr(), "/mine/?EIO=4&transport=polling").await.status, 200);
}

#[tokio::test]
async fn requests_are_refused_with_the_numbers_that_clients_know() {
    let gateway = echo(|_| {}).await;
    let cases = [
        ("GET", "/socket.io/?EIO=4", 0, "Transport unknown"),
        ("GET", "/socket.io/?EIO=4&transport=tcp", 0, "Transport unknown"),
        ("GET", "/socket.io/?EIO=4&transport=polling&sid=guess", 1, "Session ID unknown"),
        ("POST", "/socket.io/?EIO=4&transport=polling", 2, "Bad handshake method"),
        ("PUT", "/socket.io/?EIO=4&transport=polling", 2, "Bad handshake method"),
        ("GET", "/socket.io/?EIO=4&transport=websocket", 3, "Bad request"),
        ("GET", "/socket.io/?EIO=3&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "/socket.io/?transport=polling", 5, "Unsupported protocol version"),
    ];
    for (method, target, code, message) in cases {
        let reply = request(gateway.addr(), method, target, "", "").await;
        assert_eq!(reply.refusal(), (400, code, message.to_owned()), "{method} {target}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    let refused = gateway.status().refused_total;
    assert_eq!((refused.unknown_transport, refused.unknown_session), (2, 1));
    assert_eq!((refused.bad_method, refused.bad_request, refused.unsupported_version), (2, 1, 2));
    assert_eq!(gateway.status().open.polling, 0);
}

#[tokio::test]
async fn switched_off_transports_are_unknown() {
    let gateway = echo(|options| options.polling = false).await;
    let reply = get(gateway.addr(), "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(reply.refusal().1, 0);
    let gateway = echo(|options| options.websocket = false).await;
    let reply = get(gateway.addr(), "/socket.io/?EIO=4&transport=polling").await;
    assert!(reply.body.contains(r#""upgrades":[]"#), "{reply:?}");
}

#[tokio::test]
async fn packets_of_both_kinds_go_there_and_back_in_order() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    for body in ["4hello", "4one\u{1e}4two\u{1e}4dr\u{fc}\u{df}", "4hello\u{1e}bAQIDBA=="] {
        let reply = post(gateway.addr(), &sid, body).await;
        assert_eq!((reply.status, &*reply.body), (200, "ok"));
        assert_eq!(poll(gateway.addr(), &sid).await, body);
    }
}

#[tokio::test]
async fn a_poll_waits_for_the_next_message() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    let mut waiting = Http::open(gateway.addr()).await;
    waiting.request("GET", &polling(&sid), "", "").await;
    post(gateway.addr(), &sid, "4hello").await;
    assert_eq!(waiting.reply().await.body, "4hello");
}

#[tokio::test]
async fn a_poll_ends_with_a_ping_after_the_interval_at_the_latest() {
    let gateway = echo(|options| options.ping_interval = Duration::from_millis(50)).await;
    let sid = open(gateway.addr()).await;
    for _ in 0..3 {
        assert_eq!(poll(gateway.addr(), &sid).await, "2");
        assert_eq!(post(gateway.addr(), &sid, "3").await.status, 200);
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_forgotten() {
    let quick = Duration::from_millis(50);
    let gateway = echo(|options| (options.ping_interval, options.ping_timeout) = (quick, quick)).await;
    let sid = open(gateway.addr()).await;
    until(&gateway, |status| status.closed_total.ping_timeout == 1).await;
    assert_eq!(post(gateway.addr(), &sid, "3").await.refusal().1, 1);
    assert_eq!(gateway.status().open.polling, 0);
}

#[tokio::test]
async fn a_second_poll_at_a_time_ends_the_session() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    let (mut first, mut second) = (Http::open(gateway.addr()).await, Http::open(gateway.addr()).await);
    first.request("GET", &polling(&sid), "", "").await;
    until(&gateway, |status| status.requests_total == 2).await;
    second.request("GET", &polling(&sid), "", "").await;
    let mut replies = [first.reply().await, second.reply().await];
    replies.sort_by_key(|reply| reply.status);
    assert_eq!((replies[0].status, &*replies[0].body), (200, "1"));
    assert_eq!(replies[1].refusal().0, 400);
    assert_eq!(get(gateway.addr(), &polling(&sid)).await.refusal().1, 1);
    assert_eq!(gateway.status().closed_total.transport_error, 1);
}

#[tokio::test]
async fn a_second_body_at_a_time_ends_the_session() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    let mut slow = Http::open(gateway.addr()).await;
    let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n", polling(&sid));
    slow.send(&head).await;
    until(&gateway, |status| status.requests_total == 2).await;
    // The head is counted a moment before its body is waited for.
    while post(gateway.addr(), &sid, "6").await.status == 200 {}
    until(&gateway, |status| status.closed_total.transport_error == 1).await;
    slow.send("4hello").await;
    assert_eq!(slow.reply().await.status, 400);
}

#[tokio::test]
async fn what_is_no_packet_ends_the_session() {
    for body in ["abc", "4ok\u{1e}", "b%%%", "7", "0{}", "4ok\u{1e}5"] {
        let gateway = echo(|_| {}).await;
        let sid = open(gateway.addr()).await;
        assert_eq!(
            post(gateway.addr(), &sid, body).await.refusal(),
            (400, 3, "Bad request".into()),
            "{body}"
        );
        assert_eq!(get(gateway.addr(), &polling(&sid)).await.refusal().1, 1, "{body}");
        assert_eq!(gateway.status().closed_total.parse_error, 1, "{body}");
    }
}

#[tokio::test]
async fn a_client_that_closes_gets_its_poll_back_and_is_forgotten() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    let mut waiting = Http::open(gateway.addr()).await;
    waiting.request("GET", &polling(&sid), "", "").await;
    until(&gateway, |status| status.requests_total == 2).await;
    assert_eq!(post(gateway.addr(), &sid, "1").await.body, "ok");
    let reply = waiting.reply().await;
    assert!(reply.body == "6" || reply.refusal().1 == 1, "{reply:?}");
    assert_eq!(get(gateway.addr(), &polling(&sid)).await.refusal().1, 1);
    assert_eq!(gateway.status().closed_total.transport_close, 1);
}

#[tokio::test]
async fn what_a_client_did_not_wait_for_is_there_when_it_asks_again() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    let mut impatient = Http::open(gateway.addr()).await;
    impatient.request("GET", &polling(&sid), "", "").await;
    until(&gateway, |status| status.requests_total == 2).await;
    drop(impatient);
    until(&gateway, |status| status.connections == 0).await;
    assert_eq!(post(gateway.addr(), &sid, "4hello").await.body, "ok");
    assert_eq!(poll(gateway.addr(), &sid).await, "4hello");
}
