//! Which pages may talk to the gateway, and what browsers are told about it.

use crate::client::*;
use twinlane_gateway::Origins;

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

#[tokio::test]
async fn a_foreign_page_is_refused_at_every_door() {
    let gateway = echo(|_| {}).await;
    let sid = open(gateway.addr()).await;
    for origin in ["http://evil.net", "null", "http://localhost.evil.net", "http://localhost:81", "\u{ff}"] {
        let headers = format!("Host: localhost\r\nOrigin: {origin}\r\n");
        for (method, target) in
            [("GET", OPEN), ("GET", &polling(&sid)), ("POST", &polling(&sid)), ("OPTIONS", OPEN)]
        {
            let reply = request(gateway.addr(), method, target, &headers, "").await;
            assert_eq!(reply.refusal(), (403, 4, "Forbidden".into()), "{method} {origin}");
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
        let socket =
            WebSocket::try_open(gateway.addr(), "/socket.io/?EIO=4&transport=websocket", &headers).await;
        assert_eq!(socket.err().expect("no WebSocket").status, 403, "{origin}");
    }
}

#[tokio::test]
async fn a_page_of_the_same_host_is_served_and_needs_no_permission_to_read() {
    let gateway = echo(|_| {}).await;
    let headers = "Host: localhost:4780\r\nOrigin: http://localhost:4780\r\n";
    let reply = request(gateway.addr(), "GET", OPEN, headers, "").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
    assert_eq!(reply.header("vary"), Some("Origin"));
    let headers = "Host: evil.net:4780\r\nOrigin: http://evil.net:4780\r\n";
    let reply = request(gateway.addr(), "GET", OPEN, headers, "").await;
    assert_eq!(reply.status, 403, "a foreign name that points at loopback");
}

#[tokio::test]
async fn a_listed_page_may_read_answers_and_send_cookies() {
    let page = "https://chat.example.org";
    let gateway = echo(|options| options.origins = Origins::List(vec![page.into()])).await;
    let headers = format!("Origin: {page}\r\n");
    let reply = request(gateway.addr(), "GET", OPEN, &headers, "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some(page));
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    let reply = get(gateway.addr(), &format!("{OPEN}&sid=guess")).await;
    assert_eq!(reply.header("access-control-allow-origin"), None, "not a page");
}

#[tokio::test]
async fn any_page_may_read_answers_where_all_are_allowed_but_not_send_cookies() {
    let gateway = echo(|options| options.origins = Origins::Any).await;
    let reply = request(gateway.addr(), "GET", OPEN, "Origin: https://evil.net\r\n", "").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("*")));
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    let reply = request(gateway.addr(), "GET", "/socket.io/?EIO=4", "Origin: https://evil.net\r\n", "").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (400, Some("*")));
}

#[tokio::test]
async fn a_browser_that_asks_first_is_told_what_it_may_send() {
    let gateway = echo(|options| options.origins = Origins::List(vec!["https://a.example".into()])).await;
    let headers = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n\
                   Access-Control-Request-Headers: content-type, x-mine\r\n";
    let reply = request(gateway.addr(), "OPTIONS", OPEN, headers, "").await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET, POST"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("content-type, x-mine"));
    assert_eq!(reply.header("access-control-max-age"), Some("600"));
}

#[tokio::test]
async fn whom_the_application_refuses_is_told_why() {
    let mut options = options().allow_request(|handshake| {
        let token = handshake.query.iter().find(|(name, _)| name == "token");
        match token {
            Some((_, token)) if token == "let me in" => Ok(()),
            _ => Err("no token".into()),
        }
    });
    options.allow_upgrades = false;
    let gateway = twinlane_gateway::testing::echo(options).await.unwrap();
    let reply = get(gateway.addr(), &format!("{OPEN}&token=let+me%20in")).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains(r#""upgrades":[]"#), "{reply:?}");
    assert_eq!(get(gateway.addr(), OPEN).await.refusal(), (403, 4, "no token".into()));
    assert_eq!(gateway.status().refused_total.not_allowed, 1);
}
