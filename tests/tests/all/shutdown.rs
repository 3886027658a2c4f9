//! The end of a server and of a session: everyone is told, nothing accepted is lost on the way.

use std::time::Duration;

use twinlane::{Code, PublishError, SessionEvent};

use crate::world::{Carrier, World, next_message, payload, proven, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_shuts_down_says_so_to_every_client() {
    for carrier in Carrier::REMOTE {
        let world = World::new().await;
        let mut options = world.options(carrier);
        options.reconnect.enabled = false;
        let session = twinlane::Session::connect(options).await.unwrap();
        let mut events = session.events();
        let mut subscription = session.subscribe("news").await.unwrap();
        let mut publisher = session.publisher("news").await.unwrap();
        publisher.publish(b"last").await.unwrap();
        world.engine.shutdown(Duration::from_secs(5)).await;
        assert_eq!(next_message(&mut subscription).await.payload(), b"last", "{carrier:?}");
        assert!(within("the end", subscription.next()).await.is_none());
        assert_eq!(subscription.end().unwrap().code, Code::ServerShutdown, "{carrier:?}");
        let closed = async {
            loop {
                if let Some(SessionEvent::Closed { code, .. }) = events.next().await {
                    return code;
                }
            }
        };
        assert_eq!(within("the closing event", closed).await, Code::ServerShutdown, "{carrier:?}");
        assert!(session.status().state.starts_with("closed"), "{:?}", session.status());
        assert!(matches!(publisher.publish(b"x").await, Err(PublishError::Closed { .. })), "{carrier:?}");
        assert_eq!(world.engine.status().connections_open, 0, "{carrier:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_waits_for_what_subscribers_were_not_sent_yet() {
    for carrier in Carrier::REMOTE {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe("news").await.unwrap();
        let local = world.session(Carrier::Local).await;
        let mut publisher = local.publisher("news").await.unwrap();
        for number in 0..2_000 {
            publisher.publish(&payload(0, number)).await.unwrap();
        }
        world.engine.shutdown(Duration::from_secs(5)).await;
        for number in 0..2_000 {
            assert_eq!(proven(next_message(&mut subscription).await.payload()).1, number, "{carrier:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_session_leaves_nothing_behind_on_the_server() {
    for carrier in Carrier::REMOTE {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let subscription = session.subscribe("t").await.unwrap();
        session.publisher("t").await.unwrap().publish(b"1").await.unwrap();
        session.close().await;
        until("no session", || world.engine.status().sessions.is_empty()).await;
        until("no connection", || world.engine.status().connections_open == 0).await;
        let topics = || world.engine.status().topics.into_iter().find(|topic| topic.name == "t").unwrap();
        until("no publisher and no subscriber", || {
            topics().publishers == 0 && topics().subscribers.is_empty()
        })
        .await;
        drop(subscription);
    }
}
