//! mosquitto (Debian's), MQTT 3.1.1 at QoS 0, with a hand-tuned client: packets encoded and parsed in place.
//!
//! `set_tcp_nodelay` is on (the manual recommends it for latency); everything else is the default, so mosquitto drops
//! what a subscriber has waiting beyond 1,000 messages, and the harness keeps a window of that size.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    lean::{Connect, LeanPublisher, LeanSubscribers, Protocol, Role},
    process::{Process, find_program, free_port},
    system::{AnySystem, Setup, System, TOPIC},
};

/// `max_queued_messages` of mosquitto's defaults.
const WINDOW_MESSAGES: u64 = 1_000;

/// The first byte of a QoS 0 PUBLISH.
const PUBLISH: u8 = 0x30;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![Box::new(Mosquitto)]
}

struct Mosquitto;

/// The server and its port.
struct MosquittoServer {
    process: Process,
    port: u16,
}

impl System for Mosquitto {
    type Server = MosquittoServer;
    type Publisher = LeanPublisher<Mqtt>;
    type Subscribers = LeanSubscribers<Mqtt>;

    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn about(&self) -> &'static str {
        "mosquitto, MQTT 3.1.1 QoS 0, TCP_NODELAY, with a hand-tuned client over raw sockets"
    }

    fn missing(&self, _: &Setup) -> Option<String> {
        find_program("mosquitto").is_none().then(|| "apt-get install mosquitto".to_owned())
    }

    fn window_messages(&self) -> Option<u64> {
        Some(WINDOW_MESSAGES)
    }

    fn start(&self, setup: &Setup) -> Result<MosquittoServer> {
        let port = free_port()?;
        let program = find_program("mosquitto").context("no mosquitto")?;
        let configuration = setup.directory.join("mosquitto.conf");
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n");
        fs::write(&configuration, text)?;
        let mut process = Process::start(setup, program, &["-c", &configuration.display().to_string()])?;
        process.wait_for_port(port)?;
        Ok(MosquittoServer { process, port })
    }

    fn processes(&self, server: &MosquittoServer) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, _: &Setup, server: &MosquittoServer) -> Result<Self::Publisher> {
        LeanPublisher::connect(server.port, Mqtt)
    }

    async fn subscribers(
        &self,
        _: &Setup,
        server: &MosquittoServer,
        count: usize,
    ) -> Result<Self::Subscribers> {
        LeanSubscribers::connect(server.port, count, || Mqtt)
    }
}

/// MQTT 3.1.1, QoS 0, one topic.
#[derive(Debug)]
pub(super) struct Mqtt;

impl Protocol for Mqtt {
    #[inline]
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        out.push(PUBLISH);
        encode_length(2 + TOPIC.len() + payload.len(), out);
        encode_string(TOPIC, out);
        out.extend_from_slice(payload);
    }

    #[inline]
    fn parse(&mut self, bytes: &[u8], _: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> Result<usize> {
        let mut used = 0;
        while let Some((packet, packet_bytes)) = packet(&bytes[used..])? {
            if packet.first == PUBLISH {
                each(payload_of(packet.content)?);
            }
            used += packet_bytes;
        }
        Ok(used)
    }
}

struct Packet<'a> {
    first: u8,
    content: &'a [u8],
}

/// The first packet and its size, if all of it is there.
#[inline]
fn packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>> {
    let [first, rest @ ..] = bytes else { return Ok(None) };
    let mut content_bytes = 0;
    for (at, byte) in rest.iter().enumerate() {
        ensure!(at < 4, "a packet's length has more than 4 bytes");
        content_bytes |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let Some(content) = rest.get(at + 1..at + 1 + content_bytes) else { return Ok(None) };
            return Ok(Some((Packet { first: *first, content }, at + 2 + content_bytes)));
        }
    }
    Ok(None)
}

#[inline]
fn payload_of(content: &[u8]) -> Result<&[u8]> {
    let (topic_bytes, rest) = content.split_first_chunk().context("a PUBLISH without a topic")?;
    rest.get(usize::from(u16::from_be_bytes(*topic_bytes))..).context("a PUBLISH whose topic is cut")
}

fn encode_length(mut length: usize, out: &mut Vec<u8>) {
    assert!(length < 1 << 28, "MQTT carries less than 256 MiB");
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn encode_string(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("names here are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl Connect for Mqtt {
    fn introduce(&mut self, stream: &mut TcpStream, role: Role) -> Result<()> {
        // Protocol "MQTT" level 4, clean session, no keep-alive, a client id that the server chooses.
        stream.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00")?;
        expect(stream, b"\x20\x02\x00\x00")?;
        if role == Role::Subscriber {
            let mut content = vec![0, 1];
            encode_string(TOPIC, &mut content);
            content.push(0);
            let mut packet = vec![0x82];
            encode_length(content.len(), &mut packet);
            packet.append(&mut content);
            stream.write_all(&packet)?;
            expect(stream, b"\x90\x03\x00\x01\x00")?;
        }
        Ok(())
    }
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    if answer != expected {
        bail!("mosquitto answers {answer:02x?} instead of {expected:02x?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_out_wherever_the_stream_is_cut() {
        let payloads = [vec![1; 3], vec![2; 119], vec![3; 120], vec![4; 20_000], Vec::new()];
        let mut stream = b"\xd0\x00".to_vec();
        payloads.iter().for_each(|payload| Mqtt.encode(payload, &mut stream));
        for cut in (0..300).chain([stream.len() - 1]) {
            let mut seen = Vec::new();
            let mut each = |payload: &[u8]| seen.push(payload.to_vec());
            let used = Mqtt.parse(&stream[..cut], &mut Vec::new(), &mut each).unwrap();
            let all = Mqtt.parse(&stream[used..], &mut Vec::new(), &mut each).unwrap();
            assert_eq!((used + all, seen.as_slice()), (stream.len(), &payloads[..]), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_are_encoded_as_the_standard_says() {
        for (length, bytes) in [(0, &[0][..]), (127, &[0x7f]), (128, &[0x80, 1]), (16_383, &[0xff, 0x7f])] {
            let mut out = Vec::new();
            encode_length(length, &mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_length_of_five_bytes_is_refused() {
        assert!(Mqtt.parse(b"\x30\xff\xff\xff\xff\x01", &mut Vec::new(), |_| {}).is_err());
    }
}
