//! Questions and answers over every carrier.

use std::time::Duration;

use twinlane::{RequestError, Responder, Session};
use twinlane_tests::Relay;

use crate::world::{Carrier, DEADLINE, World, until, within};

/// Answers every question with itself and `tail`.
async fn echo(mut responder: Responder, tail: &'static str) {
    while let Some(request) = responder.next().await {
        let answer = [request.payload(), tail.as_bytes()].concat();
        request.respond(&answer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_from_any_carrier_to_any_carrier_gets_its_answer() {
    let world = World::new().await;
    for asking in Carrier::ALL {
        for answering in Carrier::ALL {
            let topic = format!("echo/{asking:?}/{answering:?}");
            let responder = world.session(answering).await.responder(&topic).await.unwrap();
            let echoing = tokio::spawn(echo(responder, "!"));
            let session = world.session(asking).await;
            for number in 0..20_u32 {
                let question = number.to_le_bytes();
                let answer = session.request(&topic, &question, DEADLINE).await.unwrap();
                assert_eq!(answer.payload(), [&question[..], b"!"].concat(), "{asking:?} to {answering:?}");
            }
            echoing.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_at_once_each_get_their_own_answer() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        tokio::spawn(echo(world.session(carrier).await.responder("echo").await.unwrap(), "?"));
        let session = world.session(carrier).await;
        let asking: Vec<_> = (0..50_u32)
            .map(|number| {
                let session = session.clone();
                tokio::spawn(async move {
                    let answer = session.request("echo", &number.to_be_bytes(), DEADLINE).await.unwrap();
                    assert_eq!(answer.payload()[..4], number.to_be_bytes());
                })
            })
            .collect();
        for asked in asking {
            within("answers", asked).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_several_responders_the_first_answer_counts_and_the_next_question_gets_its_own() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        for tail in ["1", "2", "3"] {
            tokio::spawn(echo(world.session(carrier).await.responder("echo").await.unwrap(), tail));
        }
        let session = world.session(carrier).await;
        for question in ["a", "b", "c", "d"] {
            let answer = session.request("echo", question.as_bytes(), DEADLINE).await.unwrap();
            assert_eq!(answer.payload()[..1], question.as_bytes()[..], "{carrier:?}");
            assert_eq!(answer.payload().len(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_nobody_answers_times_out_and_later_ones_work() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let short = Duration::from_millis(80);
        let error = session.request("silence", b"anyone?", short).await.unwrap_err();
        assert_eq!(error, RequestError::Timeout(short), "{carrier:?}");
        tokio::spawn(echo(session.responder("silence").await.unwrap(), "."));
        assert_eq!(session.request("silence", b"now?", DEADLINE).await.unwrap().payload(), b"now?.");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_the_answers_of_another_session() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        tokio::spawn(echo(world.session(carrier).await.responder("echo").await.unwrap(), ""));
        let asker = world.session(carrier).await;
        asker.request("echo", b"secret", DEADLINE).await.unwrap();
        let inbox = format!("$inbox/{}", asker.status().id);
        let spy = world.session(carrier).await;
        assert!(spy.subscribe(&inbox).await.is_err(), "{carrier:?}");
        assert!(spy.publisher(&inbox).await.is_err(), "{carrier:?}");
        assert!(spy.responder("$inbox/*").await.is_err(), "{carrier:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_describes_itself_the_same_near_and_far() {
    let world = World::new().await;
    world.engine.declare("seen", twinlane::TopicSpec::fast()).unwrap();
    for carrier in Carrier::ALL {
        let session: Session = world.session(carrier).await;
        let status = session.server_status().await.unwrap();
        assert!(status.topics.iter().any(|topic| topic.name == "seen"), "{carrier:?}");
        let topic = session.explain("seen").await.unwrap();
        assert_eq!((topic.channel.as_str(), topic.declared_by.as_str()), ("fast", "the embedding program"));
        assert!(session.explain("unseen").await.is_err(), "{carrier:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_responder_answers_again_after_its_connection_was_lost() {
    for carrier in [Carrier::Tcp, Carrier::Both] {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), 11).await.unwrap();
        let answering = world.session_via(carrier, &relay).await;
        tokio::spawn(echo(answering.responder("echo").await.unwrap(), "!"));
        let asking = world.session(carrier).await;
        asking.request("echo", b"before", DEADLINE).await.unwrap();
        relay.cut();
        until("a reconnect", || answering.status().reconnects > 0).await;
        let answer = asking.request("echo", b"after", DEADLINE).await.unwrap();
        assert_eq!(answer.payload(), b"after!", "{carrier:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_goes_with_its_session() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        tokio::spawn(echo(world.session(Carrier::Local).await.responder("echo").await.unwrap(), "!"));
        let inboxes =
            || world.engine.status().topics.iter().filter(|topic| topic.name.starts_with("$inbox")).count();
        let asking = world.session(carrier).await;
        asking.request("echo", b"?", DEADLINE).await.unwrap();
        assert_eq!(inboxes(), 1, "{carrier:?}");
        asking.close().await;
        drop(asking);
        until("the inbox to go", || inboxes() == 0).await;
    }
}
