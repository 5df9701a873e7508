//! Commands as they are sent: encoded once, one after the other in one buffer, each with what its answer is to be read as.

use std::{ops::Range, sync::Arc};

use ::redis::{Arg, Cmd};
use bytes::Bytes;

use super::{reply::Reads, slots::Slot};
use crate::{config::View, features::feast::Layout};

/// How a view's rows are read: all of the command that does not depend on the key.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) layout: Arc<Layout>,
    /// What comes before the key, and after it.
    head: Box<[u8]>,
    tail: Box<[u8]>,
}

impl Reading {
    pub(super) fn of(view: &View) -> Self {
        let layout = Layout::of(view);
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        // The name and the key go before the fields.
        put_count(&mut head, b'*', layout.fields().count() + 2);
        put(&mut head, b"HMGET");
        layout.fields().for_each(|field| put(&mut tail, field));
        Self { layout: Arc::new(layout), head: head.into(), tail: tail.into() }
    }
}

/// Commands for one server, or for those of their keys' slots.
#[derive(Debug, Default)]
pub(super) struct Commands {
    bytes: Vec<u8>,
    each: Vec<Command>,
}

#[derive(Debug)]
struct Command {
    /// Where it ends; it begins where the one before does.
    end: usize,
    key: Range<usize>,
    reads: Reads,
    from: From,
}

/// Who may carry out a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The slot's master alone.
    Master,
    /// A replica of its as well: what it says may be a little behind.
    Replicas,
}

/// Commands that go to one server in one round trip. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    /// As many as there are commands.
    pub(super) reads: Arc<[Reads]>,
}

/// What has to be said before a command that a server redirects with `ASK`.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Cells that a server has within a fraction of a millisecond.
pub(super) const LONG: usize = 512;

/// A key's length and its line ends, at most.
const AROUND_KEY: usize = 24;

impl Commands {
    /// Room for reads of rows, each said how and with how long a key.
    pub(super) fn reads<'a>(each: impl ExactSizeIterator<Item = (&'a Reading, [&'a [u8]; 2])> + Clone) -> Self {
        let length = |(reading, key): (&Reading, [&[u8]; 2])| {
            reading.head.len() + reading.tail.len() + key[0].len() + key[1].len() + AROUND_KEY
        };
        let length = each.clone().map(length).sum();
        let mut commands = Self { bytes: Vec::with_capacity(length), each: Vec::with_capacity(each.len()) };
        each.for_each(|(reading, key)| commands.read(reading, key));
        commands
    }

    /// Reads the row in the hash whose key is in two parts.
    fn read(&mut self, reading: &Reading, key: [&[u8]; 2]) {
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(&reading.head);
        put_count(bytes, b'$', key[0].len() + key[1].len());
        let start = bytes.len();
        key.iter().for_each(|part| bytes.extend_from_slice(part));
        let key = start..bytes.len();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&reading.tail);
        let reads = Reads::Row(Arc::clone(&reading.layout));
        self.each.push(Command { end: bytes.len(), key, reads, from: From::Master });
    }

    /// Any other command; its key is its argument at that position.
    pub(super) fn add(&mut self, cmd: &Cmd, key_at: usize) {
        let args = || cmd.args_iter().map(|arg| if let Arg::Simple(arg) = arg { arg } else { b"0" });
        let mut key = 0..0;
        put_count(&mut self.bytes, b'*', args().count());
        for (at, arg) in args().enumerate() {
            put(&mut self.bytes, arg);
            if at == key_at {
                let end = self.bytes.len() - 2;
                key = end - arg.len()..end;
            }
        }
        self.each.push(Command { end: self.bytes.len(), key, reads: Reads::Value, from: From::Master });
    }

    /// Lets replicas answer the command at that position.
    pub(super) fn let_replicas_answer(&mut self, at: usize) {
        self.each[at].from = From::Replicas;
    }

    pub(super) fn from(&self, at: usize) -> From {
        self.each[at].from
    }

    pub(super) fn len(&self) -> usize {
        self.each.len()
    }

    /// The slot of each command's key.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.len()).map(|at| self.slot(at))
    }

    pub(super) fn slot(&self, at: usize) -> Slot {
        Slot::of(&self.bytes[self.each[at].key.clone()])
    }

    /// All of them.
    pub(super) fn all(self) -> Batch {
        Batch { bytes: self.bytes.into(), reads: self.each.into_iter().map(|command| command.reads).collect() }
    }

    /// Those at some positions.
    pub(super) fn at(&self, positions: &[usize]) -> Batch {
        let parts: Vec<&[u8]> = positions.iter().map(|&at| self.bytes_of(at)).collect();
        let reads = positions.iter().map(|&at| self.each[at].reads.clone()).collect();
        Batch { bytes: parts.concat().into(), reads }
    }

    /// The same for a server that a slot is moving to: each after an `ASKING`, whose answers come before theirs.
    pub(super) fn asking(&self, positions: &[usize]) -> Batch {
        let parts: Vec<&[u8]> = positions.iter().flat_map(|&at| [ASKING, self.bytes_of(at)]).collect();
        let reads = positions.iter().flat_map(|&at| [Reads::Value, self.each[at].reads.clone()]).collect();
        Batch { bytes: parts.concat().into(), reads }
    }

    fn bytes_of(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.each[before].end);
        &self.bytes[start..self.each[at].end]
    }
}

impl Batch {
    /// One command that has no key.
    pub(super) fn of(cmd: &Cmd) -> Self {
        Self { bytes: cmd.get_packed_command().into(), reads: [Reads::Value].into() }
    }

    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    /// How many cells are read, which is about how much a server has to do for it. Any other command counts as a long one.
    pub(super) fn cells(&self) -> usize {
        let cells = |reads: &Reads| match reads {
            Reads::Row(layout) => layout.fields().count(),
            Reads::Value => LONG,
        };
        self.reads.iter().map(cells).sum()
    }
}

/// A string of bytes.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The line that begins a value.
fn put_count(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::view;

    fn hmget(layout: &Layout, key: &[u8]) -> Cmd {
        let mut cmd = ::redis::cmd("HMGET");
        cmd.arg(key);
        layout.fields().for_each(|field| {
            cmd.arg(field);
        });
        cmd
    }

    #[test]
    fn commands_are_sent_as_the_driver_sends_them() {
        let reading = Reading::of(&view("v").features(&["f", "g"]).build());
        let script = ::redis::cmd("EVALSHA").arg("hash").arg(1).arg(b"{b}\r\n").arg("").take();
        let mut commands = Commands::reads([(&reading, [&b"a"[..], b"{b}c"]), (&reading, [b"", b""])].into_iter());
        commands.add(&script, 3);
        let sent =
            [hmget(&reading.layout, b"a{b}c"), hmget(&reading.layout, b""), script].map(|cmd| cmd.get_packed_command());
        assert!(commands.slots().eq([&b"a{b}c"[..], b"", b"{b}\r\n"].map(Slot::of)));

        let some = commands.at(&[2, 0]);
        assert_eq!(some.bytes, [&*sent[2], &sent[0]].concat());
        assert!(matches!(&*some.reads, [Reads::Value, Reads::Row(_)]));

        let asking = commands.asking(&[1]);
        assert_eq!(asking.bytes, [&*::redis::cmd("ASKING").get_packed_command(), &sent[1]].concat());
        assert!(matches!(&*asking.reads, [Reads::Value, Reads::Row(_)]));

        let room = commands.bytes.capacity();
        let all = commands.all();
        assert_eq!(all.bytes, sent.concat());
        assert!(matches!(&*all.reads, [Reads::Row(_), Reads::Row(_), Reads::Value]));
        assert!(room >= sent[0].len() + sent[1].len());
    }
}
