//! What the gateway and the process that reads the topic tell each other, over the latter's standard input and output.
//!
//! The gateway writes one [`Order`], a line of JSON, and then nothing more: that its end closes says that the gateway is gone. The reader
//! writes [`Event`]s:
//!
//! ```text
//!   length (u32, little-endian)   the event as JSON   for Event::Message: the payload, as long as the event says
//! ```
//!
//! Both are the same program, so nothing of it has to be read by another version.

use std::{
    io::{self, BufRead, Read, Write},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::standing::Partition;
use crate::config::{self, Secret};

/// The longest event, its payload apart.
const LONGEST: u32 = 16 << 20;

/// What is to be read. It has secrets, so it is neither an argument nor in the environment.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Order {
    brokers: Vec<String>,
    topic: String,
    properties: Vec<(String, String)>,
    discover_every: Duration,
    /// Whether a reader before this one was lost, and with it every place: all of L1 is dropped once the places are known.
    pub(super) is_again: bool,
}

/// What the reader has to say.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Event {
    /// A message; its payload follows.
    Message {
        partition: i32,
        offset: i64,
        /// Milliseconds since 1970.
        written: Option<u64>,
        /// Bytes of payload; `None`: it has none, which is not the same as an empty one.
        length: Option<u32>,
    },
    /// A place was taken anew: all of L1 is to be dropped before anything that follows is dealt with.
    Gap,
    /// The place in every partition is known.
    Settled,
    /// How it stands.
    Stands(Stands),
}

/// About once a second.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stands {
    /// Whether a broker is connected to.
    pub(super) up: bool,
    /// Why no broker is, or why the topic cannot be read, or not all of it.
    pub(super) why: Option<String>,
    pub(super) settled: bool,
    pub(super) partitions: Vec<Partition>,
}

impl Order {
    pub(super) fn new(kafka: &config::Kafka, is_again: bool) -> Self {
        Self {
            brokers: kafka.brokers.clone(),
            topic: kafka.topic.as_ref().to_owned(),
            properties: kafka
                .properties
                .iter()
                .map(|(key, value)| (key.as_ref().to_owned(), value.0.clone()))
                .collect(),
            discover_every: kafka.discover_every,
            is_again,
        }
    }

    pub(super) fn kafka(self) -> config::Kafka {
        config::Kafka {
            brokers: self.brokers,
            topic: self.topic.into(),
            properties: self.properties.into_iter().map(|(key, value)| (Arc::from(key), Secret(value))).collect(),
            discover_every: self.discover_every,
        }
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)?;
        to.flush()
    }

    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}

impl Event {
    /// Writes it, and what comes after it.
    pub(super) fn write(&self, payload: &[u8], to: &mut impl Write) -> io::Result<()> {
        let event = serde_json::to_vec(self)?;
        let length = u32::try_from(event.len()).map_err(io::Error::other)?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&event)?;
        to.write_all(payload)
    }

    /// Reads the next one, and its payload into `payload`; `None`: there is none any more.
    pub(super) fn read(payload: &mut Vec<u8>, from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(io::Error::other("no event is as long as that"));
        }
        read_exactly(length, payload, from)?;
        let event = serde_json::from_slice(payload)?;
        payload.clear();
        if let Self::Message { length: Some(length), .. } = event {
            read_exactly(length, payload, from)?;
        }
        Ok(Some(event))
    }
}

/// Memory is taken as bytes come, whatever the length says.
fn read_exactly(length: u32, into: &mut Vec<u8>, from: &mut impl Read) -> io::Result<()> {
    into.clear();
    let read = from.take(u64::from(length)).read_to_end(into)?;
    if read == length as usize { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_given() {
        let kafka = config::Kafka {
            brokers: vec!["a:1".to_owned(), "b:2".to_owned()],
            topic: "t".into(),
            properties: vec![("client.id".into(), Secret("new\nline \"é\"".to_owned()))],
            discover_every: Duration::from_millis(1500),
        };
        let (order, mut line) = (Order::new(&kafka, true), Vec::new());
        order.write(&mut line).expect("memory takes it");
        let read = Order::read(&mut line.as_slice()).expect("an order");
        assert_eq!(read, order);
        assert_eq!(format!("{:?}", read.kafka()), format!("{kafka:?}"));
    }

    #[test]
    fn events_are_read_as_they_were_told_until_they_break_off() {
        let message = |length| Event::Message { partition: 3, offset: 1 << 40, written: Some(7), length };
        let stands = Stands {
            up: true,
            why: Some("no".to_owned()),
            settled: false,
            partitions: vec![Partition { id: 0, next: Some(5), lag: None }],
        };
        let told: [(Event, &[u8]); 6] = [
            (message(Some(4)), b"\xff\n{}"),
            (message(Some(0)), b""),
            (message(None), b""),
            (Event::Gap, b""),
            (Event::Settled, b""),
            (Event::Stands(stands), b""),
        ];
        let mut bytes = Vec::new();
        told.iter().for_each(|(event, payload)| event.write(payload, &mut bytes).expect("memory takes it"));
        let (mut from, mut payload) = (bytes.as_slice(), vec![1, 2, 3]);
        for (event, expected) in &told {
            assert_eq!(Event::read(&mut payload, &mut from).expect("an event").as_ref(), Some(event));
            assert_eq!(&payload, expected, "{event:?}");
        }
        assert!(Event::read(&mut payload, &mut from).expect("an end").is_none());
        let mut broken = &bytes[..20];
        assert!(Event::read(&mut payload, &mut broken).is_err(), "it ends in an event");
        for not_one in [&b"\xff\xff\xff\xff{}"[..], b"\x02\0\0\0{}"] {
            assert!(Event::read(&mut payload, &mut &*not_one).is_err(), "{not_one:?}");
        }
    }
}
