//! Many asynchronous subscriptions as one group: only those that were woken are polled, and nothing is allocated
//! per message or per wake.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Members with a waker each.
#[derive(Debug)]
pub struct Fleet<T> {
    members: Vec<(T, Waker, Arc<Bell>)>,
    rung: Arc<Rung>,
    /// Numbers taken from `rung` and not polled yet.
    turn: Vec<usize>,
}

/// Who was woken since the last look, and whom to tell.
#[derive(Debug, Default)]
struct Rung {
    state: Mutex<RungState>,
}

#[derive(Debug, Default)]
struct RungState {
    numbers: Vec<usize>,
    parent: Option<Waker>,
}

#[derive(Debug)]
struct Bell {
    number: usize,
    is_rung: AtomicBool,
    rung: Arc<Rung>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.rung.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.numbers.push(self.number);
        if let Some(parent) = state.parent.take() {
            drop(state);
            parent.wake();
        }
    }
}

impl<T> Fleet<T> {
    /// A group of `members`, numbered in their order.
    #[must_use]
    pub fn new(members: Vec<T>) -> Self {
        let rung = Arc::new(Rung::default());
        let count = members.len();
        let member = |(number, member)| {
            let bell = Arc::new(Bell { number, is_rung: AtomicBool::new(true), rung: Arc::clone(&rung) });
            (member, Waker::from(Arc::clone(&bell)), bell)
        };
        let members = members.into_iter().enumerate().map(member).collect();
        // Everybody is looked at once.
        Self { members, rung, turn: (0..count).collect() }
    }

    /// Polls every member that was woken; waits until at least one `poll` was ready. A member whose poll was ready
    /// is polled again next time. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The first error of a member.
    pub async fn next<E>(
        &mut self,
        mut poll: impl FnMut(usize, &mut T, &mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Result<(), E> {
        poll_fn(|cx| {
            self.take_rung(cx);
            let mut ready = false;
            let mut failed = None;
            let members = &mut self.members;
            self.turn.retain(|number| {
                let (member, waker, bell) = &mut members[*number];
                bell.is_rung.store(false, Ordering::Release);
                match poll(*number, member, &mut Context::from_waker(waker)) {
                    Poll::Ready(outcome) => {
                        ready = true;
                        failed = failed.take().or(outcome.err());
                        // Rung meanwhile: it is in the other list already, and once is enough.
                        !bell.is_rung.swap(true, Ordering::AcqRel)
                    }
                    Poll::Pending => false,
                }
            });
            match failed {
                Some(error) => Poll::Ready(Err(error)),
                None if ready => Poll::Ready(Ok(())),
                None => Poll::Pending,
            }
        })
        .await?;
        // Members that always have something must not keep the connections that feed them from their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn take_rung(&mut self, cx: &Context<'_>) {
        let mut state = self.rung.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn.append(&mut state.numbers);
        if !state.parent.as_ref().is_some_and(|parent| parent.will_wake(cx.waker())) {
            state.parent = Some(cx.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn every_message_of_every_member_comes_out_once_and_in_order() {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..50).map(|_| mpsc::channel::<u32>(4)).unzip();
        let mut fleet = Fleet::new(receivers);
        let sending = tokio::spawn(async move {
            for value in 0..200 {
                for sender in &senders {
                    sender.send(value).await.unwrap();
                }
            }
        });
        let mut next = [0; 50];
        while next.iter().any(|next| *next < 200) {
            fleet
                .next(|number, receiver, cx| {
                    receiver.poll_recv(cx).map(|value| {
                        let value = value.ok_or("closed early")?;
                        assert_eq!(value, next[number]);
                        next[number] += 1;
                        Ok::<_, &str>(())
                    })
                })
                .await
                .unwrap();
        }
        sending.await.unwrap();
    }
}
