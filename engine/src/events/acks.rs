//! Who waits for which acknowledgements: of one socket or of many, until all have answered or time is over.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::payload::Payload;

/// The open questions of one namespace.
#[derive(Debug, Default)]
pub(super) struct Acks {
    last: u64,
    open: HashMap<u64, Question>,
}

#[derive(Debug)]
struct Question {
    /// Who was asked and has not answered. `None`: the event was not sent yet.
    asked: Option<Vec<Arc<str>>>,
    answers: Vec<(Arc<str>, Payload)>,
    /// Where the answers go once they are complete.
    asker: Option<oneshot::Sender<Collected>>,
}

/// The answers to one question.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) answers: Vec<(Arc<str>, Payload)>,
    pub(super) missing: Vec<Arc<str>>,
}

impl Acks {
    /// A question that is about to be asked; the receiver gets the answers when they are complete.
    pub(super) fn open(&mut self) -> (u64, oneshot::Receiver<Collected>) {
        self.last += 1;
        let (asker, asked) = oneshot::channel();
        let question = Question { asked: None, answers: Vec::new(), asker: Some(asker) };
        self.open.insert(self.last, question);
        (self.last, asked)
    }

    /// The question was sent to these. `may_come`: somebody who is away will get it when it comes back.
    pub(super) fn asked(&mut self, ack: u64, sockets: Vec<Arc<str>>, may_come: bool) {
        let Some(question) = self.open.get_mut(&ack) else { return };
        question.asked = Some(sockets);
        if !may_come {
            self.settle(ack);
        }
    }

    /// Somebody is asked once more, or for the first time after it came back.
    pub(super) fn asked_again(&mut self, ack: u64, socket: &Arc<str>) {
        let asked = self.open.get_mut(&ack).and_then(|question| question.asked.as_mut());
        if let Some(asked) = asked.filter(|asked| !asked.contains(socket)) {
            asked.push(Arc::clone(socket));
        }
    }

    /// An answer came. Returns whether that socket was asked, and had not answered yet.
    pub(super) fn answered(&mut self, ack: u64, socket: &str, payload: Payload) -> bool {
        let Some(question) = self.open.get_mut(&ack) else { return false };
        let Some(asked) = &mut question.asked else { return false };
        let Some(at) = asked.iter().position(|one| **one == *socket) else { return false };
        question.answers.push((asked.swap_remove(at), payload));
        self.settle(ack);
        true
    }

    /// Nobody waits any more: what has been answered until now.
    pub(super) fn give_up(&mut self, ack: u64) -> Collected {
        self.open.remove(&ack).map(Question::collected).unwrap_or_default()
    }

    fn settle(&mut self, ack: u64) {
        let is_complete = |question: &Question| question.asked.as_ref().is_some_and(Vec::is_empty);
        if self.open.get(&ack).is_some_and(is_complete)
            && let Some(mut question) = self.open.remove(&ack)
            && let Some(asker) = question.asker.take()
        {
            let _ = asker.send(question.collected());
        }
    }
}

impl Question {
    fn collected(self) -> Collected {
        Collected { answers: self.answers, missing: self.asked.unwrap_or_default() }
    }
}
