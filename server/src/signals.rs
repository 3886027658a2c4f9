//! SIGINT and SIGTERM: the first one asks the program to finish, the second one ends it at once.

use std::io;
use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code after an interruption, as a shell would report SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether the user has asked the program to finish. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Interrupt {
    asked: watch::Receiver<bool>,
}

impl Interrupt {
    /// Takes over SIGINT and SIGTERM for the rest of the program.
    pub(crate) fn listen() -> io::Result<Self> {
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if ask.send_replace(true) {
                    process::exit(INTERRUPTED.into());
                }
            }
        });
        Ok(Self { asked })
    }

    /// Waits until the user asks. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        let _asked = self.asked.wait_for(|asked| *asked).await.expect("the signal task never ends");
    }
}
