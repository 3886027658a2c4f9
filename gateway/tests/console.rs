//! The console's API as a browser on this machine meets it, and as everybody else does.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower_service::Service as _;
use twinlane::{Engine, EngineConfig, Session, TopicSpec};
use twinlane_gateway::Router;
use twinlane_gateway::console::{Console, Token};
use twinlane_gateway::pages::Peer;

struct World {
    engine: Engine,
    console: Console,
    token: Token,
}

impl World {
    fn new() -> Self {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let token = Token::generate();
        Self { console: Console::new(&engine, token.clone()), engine, token }
    }

    fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .extension(Peer(local()))
            .header("authorization", format!("Bearer {}", self.token.reveal()))
    }

    async fn get(&self, path: &str) -> Response<Body> {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    async fn publish(&self, body: &Value) -> (StatusCode, Value) {
        let request =
            self.request("POST", "/console/api/publish").body(Body::from(body.to_string())).unwrap();
        let response = self.send(request).await;
        (response.status(), json_of(response).await)
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        let mut router: Router = self.console.router();
        router.call(request).await.unwrap()
    }
}

fn local() -> SocketAddr {
    "127.0.0.1:50000".parse().unwrap()
}

async fn json_of(response: Response<Body>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// The data of the next event of this kind.
async fn next_event(body: &mut Body, kind: &str) -> Value {
    let mut text = String::new();
    loop {
        let frame = body.frame().await.expect("the stream goes on").unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        let found =
            text.split("\n\n").find_map(|event| event.strip_prefix(&format!("event: {kind}\ndata: ")));
        if let Some(data) = found {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn without_the_token_there_is_the_page_and_nothing_else() {
    let world = World::new();
    for given in [None, Some("Bearer "), Some("Bearer AAAA"), Some("Basic AAAA")] {
        for (method, path) in [
            ("GET", "/console/api/status"),
            ("POST", "/console/api/publish"),
            ("GET", "/console/api/subscribe?topic=a"),
        ] {
            let mut request = Request::builder().method(method).uri(path).extension(Peer(local()));
            if let Some(given) = given {
                request = request.header("authorization", given);
            }
            let response = world.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path} with {given:?}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
        }
    }
    let page = Request::builder().uri("/console/").extension(Peer(local())).body(Body::empty()).unwrap();
    assert_eq!(world.send(page).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn another_machine_is_refused_even_with_the_token() {
    let world = World::new();
    let foreign: SocketAddr = "192.0.2.7:50000".parse().unwrap();
    for path in ["/console/", "/console/api/status"] {
        let mut request = world.request("GET", path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(foreign));
        assert_eq!(world.send(request).await.status(), StatusCode::FORBIDDEN, "{path}");
        let mut unknown = world.request("GET", path).body(Body::empty()).unwrap();
        unknown.extensions_mut().remove::<Peer>();
        assert_eq!(
            world.send(unknown).await.status(),
            StatusCode::FORBIDDEN,
            "{path} from nobody knows where"
        );
        let mut mapped = world.request("GET", path).body(Body::empty()).unwrap();
        mapped.extensions_mut().insert(Peer("[::ffff:127.0.0.1]:1".parse().unwrap()));
        assert_eq!(
            world.send(mapped).await.status(),
            StatusCode::OK,
            "{path} from a mapped loopback address"
        );
    }
}

#[tokio::test]
async fn every_answer_keeps_foreign_pages_and_caches_out() {
    let world = World::new();
    for path in
        ["/console/", "/console/console.js", "/console", "/console/api/status", "/console/api/subscribe"]
    {
        let response = world.get(path).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-security-policy").starts_with("default-src 'self';"), "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
    }
    assert_eq!(world.get("/console").await.headers()["location"], "/console/");
    assert_eq!(world.get("/console/style.css").await.headers()["content-type"], "text/css; charset=utf-8");
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let world = World::new();
    for (method, path) in [
        ("POST", "/console/api/status"),
        ("GET", "/console/api/publish"),
        ("DELETE", "/console/api/subscribe"),
        ("PUT", "/console/"),
    ] {
        let response = world.send(world.request(method, path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
}

#[tokio::test]
async fn the_status_has_the_engine_and_whatever_else_is_shown() {
    let world = World::new();
    world.engine.declare("orders", TopicSpec::reliable()).unwrap();
    world.console.show("gateway", || json!({ "open": { "websocket": 7 } }));
    let status = json_of(world.get("/console/api/status").await).await;
    assert_eq!(status["gateway"]["open"]["websocket"], 7);
    let topics = status["server"]["topics"].as_array().unwrap();
    assert!(topics.iter().any(|topic| topic["name"] == "orders" && topic["channel"] == "reliable"));
}

#[tokio::test]
async fn what_is_published_at_the_console_reaches_subscribers() {
    let world = World::new();
    let session = Session::local(&world.engine);
    world.engine.declare("orders", TopicSpec::reliable()).unwrap();
    let mut orders = session.subscribe("orders").await.unwrap();
    let (status, ack) = world.publish(&json!({ "topic": "orders", "text": "one tea", "key": "a" })).await;
    assert_eq!((status, &ack["offset"], &ack["channel"]), (StatusCode::OK, &json!(0), &json!("reliable")));
    let batch = orders.next_batch().await.unwrap();
    let message = batch.messages().next().unwrap();
    assert_eq!((message.payload(), message.key()), (&b"one tea"[..], Some(0xaf63_dc4c_8601_ec8c)));
}

#[tokio::test]
async fn a_publication_that_cannot_be_is_refused_in_words() {
    let world = World::new();
    for (body, status, words) in [
        (json!({ "topic": "$events/chat", "text": "" }), StatusCode::CONFLICT, "$"),
        (json!({ "topic": "a//b", "text": "" }), StatusCode::CONFLICT, ""),
        (json!({ "topic": "a" }), StatusCode::BAD_REQUEST, "missing field `text`"),
        (json!({ "topic": "a", "text": "", "more": 1 }), StatusCode::BAD_REQUEST, "unknown field `more`"),
        (json!({ "topic": "a", "text": "x".repeat((1 << 20) + 1) }), StatusCode::CONFLICT, "bytes"),
        (json!({ "topic": "a", "text": "x".repeat(3 << 20) }), StatusCode::PAYLOAD_TOO_LARGE, "2 MiB"),
    ] {
        let (answered, answer) = world.publish(&body).await;
        let error = answer["error"].as_str().unwrap();
        assert_eq!(answered, status, "{error}");
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_watcher_sees_messages_and_how_old_they_are() {
    let world = World::new();
    world.engine.declare("orders/eu", TopicSpec::reliable()).unwrap();
    let mut body = world.get("/console/api/subscribe?topic=orders%2F*").await.into_body();
    let mut publisher = Session::local(&world.engine).publisher("orders/eu").await.unwrap();
    publisher.publish("tea".as_bytes()).await.unwrap();
    let message = next_event(&mut body, "message").await;
    assert_eq!(
        (&message["topic"], &message["text"], &message["offset"]),
        (&json!("orders/eu"), &json!("tea"), &json!(0))
    );
    publisher.publish(b"\xff\x00").await.unwrap();
    let message = next_event(&mut body, "message").await;
    assert_eq!((&message["base64"], &message["bytes"]), (&json!("/wA="), &json!(2)));
    // The first second may have ended before the messages came.
    let latency = loop {
        let second = next_event(&mut body, "second").await;
        if let Some(topic) = second["topics"].get("orders/eu") {
            break topic.clone();
        }
    };
    assert!(latency["messages"].as_u64() >= Some(1) && latency["p99_us"].is_u64(), "{latency}");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_no_publisher_back() {
    let world = World::new();
    world.engine.declare("orders", TopicSpec::reliable().with_retain_bytes(1 << 20)).unwrap();
    let mut body = world.get("/console/api/subscribe?topic=orders").await.into_body();
    let mut publisher = Session::local(&world.engine).publisher("orders").await.unwrap();
    for _ in 0..100 {
        publisher.publish(&[b'x'; 64 << 10]).await.unwrap();
    }
    let end = next_event(&mut body, "end").await;
    assert!(end["why"].as_str().unwrap().contains("slow"), "{end}");
    assert!(body.frame().await.is_none(), "the stream ends");
}

#[tokio::test]
async fn a_console_has_sixteen_subscriptions_at_a_time() {
    let world = World::new();
    let mut open = Vec::new();
    for _ in 0..16 {
        let response = world.get("/console/api/subscribe?topic=a").await;
        assert_eq!(response.status(), StatusCode::OK);
        open.push(response);
    }
    assert_eq!(world.get("/console/api/subscribe?topic=a").await.status(), StatusCode::TOO_MANY_REQUESTS);
    open.pop();
    assert_eq!(world.get("/console/api/subscribe?topic=a").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn watchers_are_told_when_the_server_stops() {
    let world = World::new();
    let mut body = world.get("/console/api/subscribe?topic=a").await.into_body();
    world.console.close();
    assert_eq!(next_event(&mut body, "end").await["why"], "the server is stopping");
    assert!(body.frame().await.is_none(), "the stream ends");
}

#[test]
fn the_address_that_opens_the_console_can_be_opened_on_this_machine() {
    let world = World::new();
    let token = world.token.reveal();
    for (addr, start) in [
        ("127.0.0.1:4780", "http://127.0.0.1:4780/console/#token="),
        ("[::1]:4780", "http://[::1]:4780/console/#token="),
        ("0.0.0.0:80", "http://127.0.0.1:80/console/#token="),
        ("[::]:80", "http://[::1]:80/console/#token="),
    ] {
        assert_eq!(world.console.url(addr.parse().unwrap(), false), format!("{start}{token}"));
    }
    assert!(world.console.url("127.0.0.1:1".parse().unwrap(), true).starts_with("https://127.0.0.1:1/"));
}
