//! What one client cannot do to the others: too much, too slowly, too often.

use std::time::Duration;

use crate::client::*;

const QUICK: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_is_read() {
    let gateway = echo(|options| options.max_payload_bytes = 1_000).await;
    let sid = open(gateway.addr()).await;
    let mut http = Http::open(gateway.addr()).await;
    http.send(&format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", polling(&sid))).await;
    assert_eq!(http.reply().await.refusal(), (413, 3, "Payload too large".into()));
    assert_eq!(post(gateway.addr(), &sid, "4hello").await.body, "ok", "the session goes on");
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused_as_soon_as_it_is() {
    let gateway = echo(|options| options.max_payload_bytes = 1_000).await;
    let sid = open(gateway.addr()).await;
    let mut http = Http::open(gateway.addr()).await;
    let head = format!("POST {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", polling(&sid));
    http.send(&head).await;
    http.send(&format!("1f4\r\n{}\r\n", "4".repeat(500)).repeat(3)).await;
    assert_eq!(http.reply().await.refusal().0, 413);
    assert_eq!(gateway.status().refused_total.too_large, 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let gateway = echo(|options| options.http.body_timeout = QUICK).await;
    let sid = open(gateway.addr()).await;
    let mut http = Http::open(gateway.addr()).await;
    http.send(&format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n4he", polling(&sid))).await;
    assert_eq!(http.reply().await.refusal().0, 408);
    assert_eq!(post(gateway.addr(), &sid, "4hello").await.body, "ok", "the session goes on");
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let gateway = echo(|options| options.http.header_timeout = QUICK).await;
    let mut http = Http::open(gateway.addr()).await;
    http.send("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost:").await;
    let reply = soon(http.try_reply()).await;
    assert!(reply.is_none_or(|reply| reply.status == 408));
    until(&gateway, |status| status.connections == 0).await;
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let gateway = echo(|_| {}).await;
    let mut http = Http::open(gateway.addr()).await;
    http.send(&format!("GET / HTTP/1.1\r\nHost: {}", "x".repeat(20_000))).await;
    let reply = soon(http.try_reply()).await;
    assert!(reply.is_none_or(|reply| reply.status == 431));
    until(&gateway, |status| status.connections == 0).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_the_next_one_gets_the_free_place() {
    let gateway = echo(|options| options.http.connections_max = 2).await;
    let mut held = [Http::open(gateway.addr()).await, Http::open(gateway.addr()).await];
    until(&gateway, |status| status.connections == 2).await;
    let mut third = Http::open(gateway.addr()).await;
    assert!(soon(third.try_reply()).await.is_none());
    assert_eq!(gateway.status().refused_total.connections_max, 1);
    held[0].request("GET", "/socket.io/?EIO=4&transport=polling", "", "").await;
    assert_eq!(held[0].reply().await.status, 200);
    drop(held);
    until(&gateway, |status| status.connections == 0).await;
    open(gateway.addr()).await;
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_refused_although_polling_needs_no_connection() {
    let gateway = echo(|options| options.http.sessions_max = 2).await;
    let first = open(gateway.addr()).await;
    open(gateway.addr()).await;
    let reply = get(gateway.addr(), "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(reply.refusal(), (503, 3, "Too many sessions".into()));
    post(gateway.addr(), &first, "1").await;
    until(&gateway, |status| status.open.polling == 1).await;
    open(gateway.addr()).await;
}

#[tokio::test]
async fn plain_http_is_for_loopback_unless_somebody_insists() {
    let mut options = options();
    options.addr = "0.0.0.0:0".parse().unwrap();
    let error = twinlane_gateway::testing::echo(options.clone()).await.unwrap_err();
    assert!(error.to_string().contains("danger_plain_off_loopback"), "{error}");
    options.danger_plain_off_loopback = true;
    twinlane_gateway::testing::echo(options).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_stops_tells_its_clients_and_takes_no_more() {
    let gateway = echo(|_| {}).await;
    let addr = gateway.addr();
    let mut socket = WebSocket::open(addr).await;
    let sid = open(addr).await;
    let mut waiting = Http::open(addr).await;
    waiting.request("GET", &polling(&sid), "", "").await;
    until(&gateway, |status| status.requests_total == 3).await;
    let stop = gateway.shutdown(PATIENCE);
    let (closed, reply, ()) = tokio::join!(socket.closed(), waiting.reply(), soon(stop));
    assert_eq!(closed, Some(1001));
    assert_eq!(reply.body, "1");
    assert_eq!(gateway.status().closed_total.server_shutdown, 2);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_gateway_does_not_wait_longer_for_its_clients_than_it_is_told() {
    let gateway = echo(|_| {}).await;
    let mut http = Http::open(gateway.addr()).await;
    http.send("GET / HTTP/1.1\r\n").await;
    until(&gateway, |status| status.connections == 1).await;
    soon(gateway.shutdown(QUICK)).await;
    until(&gateway, |status| status.connections == 0).await;
}
