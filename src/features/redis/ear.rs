//! One server, listened to: a connection of its own on which it tells which keys were changed.
//!
//! ```text
//! down ──dial, HELLO 3, CLIENT TRACKING ON BCAST──► up ──keys──► told on, as they come
//!  ▲                                                 │
//!  └── refused, closed, silent, or not understood ◄──┘   what it told goes on to be true until then, and not after
//! ```
//!
//! `BCAST`, because rows are read over many connections: the server keeps no list of who read what, and tells of every key
//! that begins as the views' keys do, also of those of other projects. `NOLOOP` would spare nothing, for it is about keys that
//! this very connection changes, and it changes none. So a gateway hears of its own writes, too: what it pushed is read anew.
//!
//! A server that is frozen, or whose network is gone, says nothing and closes nothing: it is pinged, and one that says nothing
//! for [`SILENCE`] is lost.

use std::{io, sync::Arc, time::Duration};

use ::redis::{Client, ProtocolVersion, RedisError};
use bytes::{Buf, BytesMut};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

use super::{
    PATIENCE,
    dial::{self, Socket},
    pushes::{Pushes, Said},
    reply::Broken,
};

/// How often a server has to say something: then it is asked to.
const PING: Duration = Duration::from_secs(1);
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(3);
/// Room that is made for each read.
const CHUNK: usize = 64 * 1024;
/// Asks it to.
const PINGED: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// What the connection is called in `CLIENT LIST`.
pub(super) const NAME: &str = "weir-tracking";

/// What is heard of a server at once.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// All keys were changed: before these, or meanwhile.
    pub(super) flushed: bool,
    /// These keys were.
    pub(super) keys: Vec<Box<[u8]>>,
}

/// Why nothing is heard any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Deaf {
    #[error("cannot be reached")]
    Unreachable(#[source] RedisError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("does not tell of changes (CLIENT TRACKING): {0}")]
    Refused(String),
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    #[error("said nothing for {0:?}")]
    Silent(Duration),
    #[error("not understood")]
    Malformed(#[from] Broken),
}

/// A connection that is listened to.
pub(super) struct Ear {
    socket: Socket,
    pushes: Pushes,
    input: BytesMut,
    /// When anything was heard last.
    heard: Instant,
    /// When the server is to be asked to say something.
    ping: Instant,
}

impl Ear {
    /// Listens, from when this has returned on: what is changed after that is heard.
    ///
    /// # Errors
    ///
    /// Never [`Deaf::Silent`].
    pub(super) async fn open(
        client: &Client,
        tls: Option<&Arc<ClientConfig>>,
        prefixes: &[Box<[u8]>],
    ) -> Result<Self, Deaf> {
        let opening = timeout(PATIENCE, Self::begin(client, tls, prefixes)).await;
        opening.unwrap_or(Err(Deaf::TimedOut(PATIENCE)))
    }

    async fn begin(client: &Client, tls: Option<&Arc<ClientConfig>>, prefixes: &[Box<[u8]>]) -> Result<Self, Deaf> {
        let info = client.get_connection_info();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.clone().set_redis_settings(settings)).map_err(Deaf::Unreachable)?;
        let socket = dial::connect(&client, tls).await.map_err(Deaf::Unreachable)?;
        let mut ear = Self::over(socket);
        let mut named = ::redis::cmd("CLIENT");
        named.arg("SETNAME").arg(NAME);
        // A user who may not name it may listen all the same.
        let _ = ear.ask(&named).await?;
        ear.ask(&tracking(prefixes)).await?.map_err(Deaf::Refused)?;
        Ok(ear)
    }

    fn over(socket: Socket) -> Self {
        let now = Instant::now();
        Self { socket, pushes: Pushes::default(), input: BytesMut::new(), heard: now, ping: now + PING }
    }

    /// What a server answers, before it tells of anything.
    async fn ask(&mut self, command: &::redis::Cmd) -> Result<Result<(), String>, Deaf> {
        self.say(&command.get_packed_command()).await?;
        loop {
            self.read().await?;
            while let Some((said, length)) = self.pushes.take(&self.input)? {
                let answer = match said {
                    Some(Said::Answer(answer)) => Some(answer.map_err(|why| String::from_utf8_lossy(why).into_owned())),
                    _ => None,
                };
                self.input.advance(length);
                if let Some(answer) = answer {
                    return Ok(answer);
                }
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// # Cancel safety
    ///
    /// Dropped, nothing was read.
    async fn read(&mut self) -> Result<(), Deaf> {
        self.input.reserve(CHUNK);
        match self.socket.read_buf(&mut self.input).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server").into()),
            _ => Ok(()),
        }
    }

    /// What is heard next.
    ///
    /// # Errors
    ///
    /// Nothing will be any more. What was is to be believed no longer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Heard, Deaf> {
        loop {
            let (silent, ping) = (self.heard + SILENCE, self.ping);
            tokio::select! {
                // What has come in time counts, however late it is looked at.
                biased;
                read = self.read() => {
                    read?;
                    self.heard = Instant::now();
                    let heard = self.take()?;
                    if heard != Heard::default() {
                        return Ok(heard);
                    }
                }
                () = sleep_until(silent) => return Err(Deaf::Silent(SILENCE)),
                () = sleep_until(ping) => {
                    // One that takes nothing either is found out here.
                    let sent = timeout(SILENCE, self.say(PINGED)).await;
                    sent.map_err(|_| Deaf::Silent(SILENCE))??;
                    self.ping = Instant::now() + PING;
                }
            }
        }
    }

    /// What is in that which was read.
    fn take(&mut self) -> Result<Heard, Broken> {
        let (mut at, mut heard) = (0, Heard::default());
        while let Some((said, length)) = self.pushes.take(&self.input[at..])? {
            at += length;
            match said {
                Some(Said::Changed(key)) => heard.keys.push(key.into()),
                Some(Said::Flushed) => heard.flushed = true,
                Some(Said::Answer(_)) | None => {}
            }
        }
        self.input.advance(at);
        Ok(heard)
    }
}

fn tracking(prefixes: &[Box<[u8]>]) -> ::redis::Cmd {
    let mut tracking = ::redis::cmd("CLIENT");
    tracking.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in prefixes {
        tracking.arg("PREFIX").arg(&**prefix);
    }
    tracking
}
