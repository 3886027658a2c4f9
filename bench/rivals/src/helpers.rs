//! The harness's own server processes: hidden subcommands of this program.
//!
//! `guard` becomes another program that dies with the harness; `relay` copies one publisher's bytes to subscribers;
//! the echo servers return what they get.

use std::{
    ffi::OsString,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::process::loopback;
#[cfg(any(feature = "aeron", feature = "zenoh", feature = "zeromq"))]
use crate::systems;

/// What the relay copies at once.
const COPY_BYTES: usize = 64 << 10;

/// A helper and its arguments.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Helper {
    /// Become PROGRAM, and die with the parent.
    #[command(hide = true)]
    Guard {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
    /// Copy a publisher's bytes to every subscriber.
    #[command(hide = true)]
    Relay {
        /// Where to listen.
        port: u16,
    },
    /// Return every byte on the connection it came from.
    #[command(hide = true)]
    EchoTcp {
        /// Where to listen.
        port: u16,
    },
    /// Return every datagram.
    #[command(hide = true)]
    EchoUdp {
        /// Where to listen.
        port: u16,
    },
    /// Keep one core out of its idle state.
    #[command(hide = true)]
    Spin {
        /// The core.
        core: usize,
    },
    /// Forward from ZeroMQ publishers to ZeroMQ subscribers.
    #[cfg(feature = "zeromq")]
    #[command(hide = true)]
    ZeromqProxy {
        /// Where publishers connect.
        publishers_port: u16,
        /// Where subscribers connect.
        subscribers_port: u16,
        /// High water mark of every socket.
        mark_messages: i32,
    },
    /// Run a Zenoh router.
    #[cfg(feature = "zenoh")]
    #[command(hide = true)]
    ZenohRouter {
        /// Where to listen.
        port: u16,
    },
    /// Run an Aeron media driver.
    #[cfg(feature = "aeron")]
    #[command(hide = true)]
    AeronDriver {
        /// Where its buffers are.
        directory: String,
    },
}

/// Runs a helper until it is killed.
///
/// # Errors
///
/// It cannot start, or its sockets fail.
pub fn run(helper: Helper) -> Result<()> {
    match helper {
        Helper::Guard { program } => guard(&program),
        Helper::Relay { port } => relay(port),
        Helper::EchoTcp { port } => echo_tcp(port),
        Helper::EchoUdp { port } => echo_udp(port),
        Helper::Spin { core } => spin(core),
        #[cfg(feature = "zeromq")]
        Helper::ZeromqProxy { publishers_port, subscribers_port, mark_messages } => {
            systems::zeromq::proxy(publishers_port, subscribers_port, mark_messages)
        }
        #[cfg(feature = "zenoh")]
        Helper::ZenohRouter { port } => systems::zenoh::router(port),
        #[cfg(feature = "aeron")]
        Helper::AeronDriver { directory } => systems::aeron::driver(&directory),
    }
}

fn guard(program: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [program, args @ ..] = program else { bail!("no program to guard") };
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn relay(port: u16) -> Result<()> {
    let listener = TcpListener::bind(loopback(port))?;
    let subscribers = Arc::new(Mutex::new(Vec::new()));
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        let mut role = [0];
        // Whoever only looks whether somebody listens says nothing.
        if stream.read(&mut role)? == 0 {
            continue;
        }
        let mut known = subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if role == *b"S" {
            stream.write_all(b"+")?;
            known.push(stream);
        } else {
            let subscribers = Arc::clone(&subscribers);
            thread::spawn(move || copy(stream, &subscribers));
        }
    }
    Ok(())
}

fn copy(mut publisher: TcpStream, subscribers: &Mutex<Vec<TcpStream>>) {
    let mut buffer = vec![0; COPY_BYTES];
    while let Ok(read) = publisher.read(&mut buffer) {
        if read == 0 {
            return;
        }
        let mut subscribers = subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain_mut(|subscriber| subscriber.write_all(&buffer[..read]).is_ok());
    }
}

fn echo_tcp(port: u16) -> Result<()> {
    for stream in TcpListener::bind(loopback(port))?.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(move || {
            let mut buffer = vec![0; COPY_BYTES];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

fn echo_udp(port: u16) -> Result<()> {
    let socket = UdpSocket::bind(loopback(port))?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((read, from)) => drop(socket.send_to(&buffer[..read], from)),
            // The peer has closed its socket.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn spin(core: usize) -> Result<()> {
    pin(core)?;
    loop {
        std::hint::spin_loop();
    }
}

/// Keeps the calling thread, and whatever it starts from now on, on one core.
///
/// # Errors
///
/// There is no such core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores)
        .with_context(|| format!("cannot run on core {core} alone"))
}
