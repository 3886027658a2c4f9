//! WebSocket, from the first and after an upgrade.

use std::time::Duration;

use crate::client::*;

#[tokio::test]
async fn messages_of_both_kinds_go_there_and_back() {
    let gateway = echo(|_| {}).await;
    let mut socket = WebSocket::open(gateway.addr()).await;
    let opening = socket.message().await;
    assert!(opening.contains(r#""upgrades":[]"#), "{opening}");
    socket.text("4h\u{e9}llo").await;
    assert_eq!(socket.message().await, "4h\u{e9}llo");
    socket.binary(&[1, 2, 3]).await;
    assert_eq!(socket.frame().await, Frame { opcode: 2, payload: vec![1, 2, 3] });
    let long = "4".repeat(100_000);
    socket.text(&long).await;
    assert_eq!(socket.message().await, long);
    assert_eq!(gateway.status().open.websocket, 1);
}

#[tokio::test]
async fn a_message_may_come_in_pieces_with_a_ping_between_them() {
    let gateway = echo(|_| {}).await;
    let mut socket = WebSocket::open(gateway.addr()).await;
    socket.message().await;
    let mut bytes = frame(0x01, b"4he");
    bytes.extend(frame(0x89, b"?"));
    bytes.extend(frame(0x00, b"l"));
    bytes.extend(frame(0x80, b"lo"));
    for byte in bytes {
        socket.raw(&[byte]).await;
    }
    assert_eq!(socket.frame().await, Frame { opcode: 10, payload: b"?".to_vec() });
    assert_eq!(socket.message().await, "4hello");
}

#[tokio::test]
async fn what_no_client_may_send_closes_with_the_code_for_it() {
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("not masked", vec![0x81, 2, b'4', b'x'], 1002),
        ("reserved bits", frame(0xc1, b"4x"), 1002),
        ("unknown opcode", frame(0x83, b"4x"), 1002),
        ("a ping in pieces", frame(0x09, b"x"), 1002),
        ("nothing to continue", frame(0x80, b"4x"), 1002),
        ("no UTF-8", frame(0x81, b"4\xff"), 1007),
        ("too large", frame(0x81, &[b'4'; 2_000]), 1009),
        ("too many pieces", [frame(0x01, b"4"), frame(0x00, b"").repeat(1_024)].concat(), 1009),
    ];
    for (what, bytes, code) in cases {
        let gateway = echo(|options| options.max_payload_bytes = 1_000).await;
        let mut socket = WebSocket::open(gateway.addr()).await;
        socket.raw(&bytes).await;
        assert_eq!(socket.closed().await, Some(code), "{what}");
        assert_eq!(gateway.status().closed_total.transport_error, 1, "{what}");
    }
}

#[tokio::test]
async fn what_is_no_packet_closes() {
    for text in ["abc", "", "0", "5"] {
        let gateway = echo(|_| {}).await;
        let mut socket = WebSocket::open(gateway.addr()).await;
        socket.text(text).await;
        assert_eq!(socket.closed().await, Some(1008), "{text}");
        assert_eq!(gateway.status().closed_total.parse_error, 1, "{text}");
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_code() {
    let gateway = echo(|_| {}).await;
    for (payload, code) in [(&b"\x03\xe9"[..], 1001), (b"", 1000)] {
        let mut socket = WebSocket::open(gateway.addr()).await;
        socket.raw(&frame(0x88, payload)).await;
        assert_eq!(socket.closed().await, Some(code));
    }
    assert_eq!(gateway.status().closed_total.transport_close, 2);
}

#[tokio::test]
async fn a_clients_own_close_packet_closes() {
    let gateway = echo(|_| {}).await;
    let mut socket = WebSocket::open(gateway.addr()).await;
    socket.text("1").await;
    assert_eq!(socket.closed().await, Some(1000));
    assert_eq!(gateway.status().open.websocket, 0);
}

#[tokio::test]
async fn a_connection_that_breaks_is_over() {
    let gateway = echo(|_| {}).await;
    let socket = WebSocket::open(gateway.addr()).await;
    drop(socket);
    until(&gateway, |status| status.closed_total.transport_close == 1 && status.connections == 0).await;
}

#[tokio::test]
async fn the_server_pings_and_closes_on_whom_does_not_answer() {
    let quick = Duration::from_millis(50);
    let gateway = echo(|options| (options.ping_interval, options.ping_timeout) = (quick, quick * 10)).await;
    let mut socket = WebSocket::open(gateway.addr()).await;
    socket.message().await;
    for _ in 0..3 {
        assert_eq!(socket.message().await, "2");
        socket.text("3").await;
    }
    assert_eq!(socket.closed().await, Some(1000));
    assert_eq!(gateway.status().closed_total.ping_timeout, 1);
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused() {
    let gateway = echo(|_| {}).await;
    let target = "/socket.io/?EIO=4&transport=websocket";
    let headers = [
        "",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ];
    for headers in headers {
        let reply = request(gateway.addr(), "GET", target, headers, "").await;
        assert_eq!(reply.refusal(), (400, 3, "Bad request".into()), "{headers}");
    }
    assert_eq!(gateway.status().open.websocket, 0);
}

#[tokio::test]
async fn an_upgrade_carries_everything_over_in_order() {
    let gateway = echo(|_| {}).await;
    let addr = gateway.addr();
    let sid = open(addr).await;
    let mut socket = WebSocket::beside(addr, &sid).await;
    socket.text("2probe").await;
    assert_eq!(socket.message().await, "3probe");
    assert_eq!(poll(addr, &sid).await, "6", "a poll ends, so that the client can let go of polling");
    assert_eq!(post(addr, &sid, "4before").await.body, "ok");
    socket.text("5").await;
    socket.text("4after").await;
    assert_eq!(socket.message().await, "4before");
    assert_eq!(socket.message().await, "4after");
    let status = gateway.status();
    assert_eq!((status.open.polling, status.open.websocket, status.upgrades_total), (0, 1, 1));
    assert_eq!(get(addr, &polling(&sid)).await.refusal(), (400, 3, "Bad request".into()));
    assert_eq!(post(addr, &sid, "4x").await.refusal().1, 3);
    assert_eq!(WebSocket::beside(addr, &sid).await.closed().await, Some(1000), "it has one already");
}

#[tokio::test]
async fn a_poll_that_waits_ends_when_the_probe_is_answered() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    let mut waiting = Http::open(gateway.addr()).await;
    waiting.request("GET", &polling(&sid), "", "").await;
    let mut socket = WebSocket::beside(gateway.addr(), &sid).await;
    socket.text("2probe").await;
    assert_eq!(waiting.reply().await.body, "6");
    assert_eq!(socket.message().await, "3probe");
}

#[tokio::test]
async fn an_upgrade_that_fails_leaves_polling_as_it_was() {
    let gateway = echo(|options| options.upgrade_timeout = Duration::from_millis(50)).await;
    let addr = gateway.addr();
    let sid = open(addr).await;
    for words in [&["5"][..], &["2probe", "4early"], &["2probe"], &[]] {
        let mut socket = WebSocket::beside(addr, &sid).await;
        for word in words {
            socket.text(word).await;
        }
        assert_eq!(socket.closed().await, Some(1000), "{words:?}");
    }
    assert_eq!(post(addr, &sid, "4hello").await.body, "ok");
    assert_eq!(poll(addr, &sid).await, "4hello");
    assert_eq!(gateway.status().upgrades_total, 0);
}

#[tokio::test]
async fn nothing_upgrades_where_that_is_switched_off() {
    let gateway = echo(|options| options.allow_upgrades = false).await;
    let sid = open(gateway.addr()).await;
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={sid}");
    let reply = WebSocket::try_open(gateway.addr(), &target, "").await.err().unwrap();
    assert_eq!(reply.refusal().1, 3);
}
