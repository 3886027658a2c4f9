//! Counts the instructions of one message, path by path: `cargo xtask instructions` runs it and judges.
//!
//! Here is only which path is counted under which name. The identifier `messages_4096` tells by how many
//! messages a count is to be divided.
#![allow(missing_docs, reason = "the macros make undocumented items")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use twinlane_instructions::engine::Path;
use twinlane_instructions::ring::{Runs, Warm};
use twinlane_instructions::wire::Done;
use twinlane_instructions::{MESSAGES, wire};

const _: () = assert!(MESSAGES == 4_096, "the identifiers below say 4096");

#[library_benchmark]
#[bench::messages_4096(setup = Warm::new, teardown = Warm::check_appended)]
fn append(mut warm: Warm) -> Warm {
    warm.append();
    warm
}

fn warm_and_runs() -> (Warm, Runs) {
    (Warm::new(), Runs::default())
}

fn check_appended((warm, _): (Warm, Runs)) {
    warm.check_appended();
}

#[library_benchmark]
#[bench::messages_4096(setup = warm_and_runs, teardown = check_appended)]
fn append_run((mut warm, runs): (Warm, Runs)) -> (Warm, Runs) {
    warm.append_runs(&runs);
    (warm, runs)
}

#[library_benchmark]
#[bench::messages_4096(setup = Warm::filled, teardown = Warm::check_read)]
fn read(mut warm: Warm) -> Warm {
    warm.read();
    warm
}

#[library_benchmark]
#[bench::messages_4096(setup = Warm::filled, teardown = Warm::check_read)]
fn read_run(mut warm: Warm) -> Warm {
    warm.read_runs();
    warm
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::head_buffer, teardown = Done::check)]
fn encode_head(out: Vec<u8>) -> Done<Vec<u8>> {
    wire::encode_heads(out)
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::stream, teardown = wire::check_scan)]
fn scan_run(stream: Vec<u8>) -> Done<Vec<u8>> {
    wire::scan(stream)
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::stream, teardown = Done::check)]
fn read_stream(stream: Vec<u8>) -> Done<Vec<u8>> {
    wire::read_stream(stream)
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::batch, teardown = Done::check)]
fn read_batch(batch: Vec<u8>) -> Done<Vec<u8>> {
    wire::read_batch(batch)
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::frames, teardown = wire::check_packed)]
fn pack_datagram(frames: Vec<Vec<u8>>) -> Done<Vec<Vec<u8>>> {
    wire::pack(frames)
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::datagrams, teardown = Done::check)]
fn decode_datagram(datagrams: Vec<Vec<u8>>) -> Done<Vec<Vec<u8>>> {
    wire::decode(datagrams)
}

#[library_benchmark]
#[bench::messages_4096(setup = wire::run_headers, teardown = Done::check)]
fn decode_run_header(headers: Vec<[u8; 32]>) -> Done<Vec<[u8; 32]>> {
    wire::decode_run_headers(headers)
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::unread, teardown = Path::check_stored)]
fn try_publish(mut path: Path) -> Path {
    path.try_publish();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::unread, teardown = Path::check_stored)]
fn send(mut path: Path) -> Path {
    path.send();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::reliable, teardown = Path::check)]
fn reliable(mut path: Path) -> Path {
    path.publish_and_read();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::reliable, teardown = Path::check)]
fn reliable_one_by_one(mut path: Path) -> Path {
    path.publish_and_read_each();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::reliable_to_four, teardown = Path::check)]
fn reliable_to_four(mut path: Path) -> Path {
    path.publish_and_read();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::fast, teardown = Path::check)]
fn fast(mut path: Path) -> Path {
    path.publish_and_read();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::reliable, teardown = Path::check)]
fn wake_subscriber(mut path: Path) -> Path {
    path.wake_for_each();
    path
}

#[library_benchmark]
#[bench::messages_4096(setup = Path::tcp, teardown = Path::check)]
fn reliable_over_tcp(mut path: Path) -> Path {
    path.publish_and_read();
    path
}

library_benchmark_group!(name = ring, benchmarks = [append, append_run, read, read_run]);
library_benchmark_group!(
    name = codec,
    benchmarks =
        [encode_head, scan_run, read_stream, read_batch, pack_datagram, decode_datagram, decode_run_header]
);
library_benchmark_group!(
    name = engine,
    benchmarks = [
        try_publish,
        send,
        reliable,
        reliable_one_by_one,
        reliable_to_four,
        fast,
        wake_subscriber,
        reliable_over_tcp
    ]
);

main!(library_benchmark_groups = [ring, codec, engine]);
