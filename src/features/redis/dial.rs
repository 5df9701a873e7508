//! Making a connection: the socket, its encryption, and a handshake on it.
//!
//! The handshake is the Redis driver's own (`HELLO`, `AUTH`, `SELECT` as the URL wants them), on a socket that it is lent for
//! that long. The driver lends no socket of its own, so this makes them as it does.
//!
//! **Source:** redis-rs 1.8, `aio/connection.rs` and `connection.rs`.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use ::redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::SockRef},
};
use futures_util::future::select_ok;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::TlsConnector;

/// What is read from and written to.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket of whatever kind.
pub(super) type Socket = Box<dyn Stream>;

/// A socket to the client's server, ready for commands.
///
/// # Errors
///
/// It cannot be reached, is not who it should be, or does not let us in.
pub(super) async fn connect(client: &Client, tls: Option<&Arc<ClientConfig>>) -> Result<Socket, RedisError> {
    let info = client.get_connection_info();
    let socket = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Box::new(tcp((host, *port), info.tcp_settings()).await?),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            let tls = tls.ok_or((ErrorKind::InvalidClientConfig, "TLS is not set up"))?;
            encrypted((host, *port), info.tcp_settings(), tls).await?
        }
        _ => return Err((ErrorKind::InvalidClientConfig, "a kind of connection that is not made").into()),
    };
    greet(info, socket).await
}

/// Has a replica of a cluster answer on this connection what it would send to its master else.
///
/// # Errors
///
/// It does not, or is no cluster's.
pub(super) async fn accept_lag(socket: &mut Socket) -> Result<(), RedisError> {
    const OK: &[u8] = b"+OK\r\n";
    socket.write_all(b"*1\r\n$8\r\nREADONLY\r\n").await?;
    socket.flush().await?;
    let mut said = [0; OK.len()];
    socket.read_exact(&mut said).await?;
    if said == OK { Ok(()) } else { Err((ErrorKind::Client, "READONLY is refused").into()) }
}

/// Whichever of the host's addresses answers first.
async fn tcp((host, port): (&str, u16), settings: &TcpSettings) -> Result<TcpStream, RedisError> {
    let addresses: Vec<_> =
        lookup_host((host, port)).await?.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if addresses.is_empty() {
        return Err((ErrorKind::InvalidClientConfig, "No address found for host").into());
    }
    let (stream, _) = select_ok(addresses).await?;
    stream.set_nodelay(settings.nodelay())?;
    let socket = SockRef::from(&stream);
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

async fn encrypted(
    (host, port): (&str, u16),
    settings: &TcpSettings,
    tls: &Arc<ClientConfig>,
) -> Result<Socket, RedisError> {
    let name = ServerName::try_from(host).map_err(|error| no_tls(&error))?.to_owned();
    let stream = tcp((host, port), settings).await?;
    Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
}

/// What encrypts a store's connections, so that they share their sessions; `None`: none of the clients' are encrypted.
///
/// # Errors
///
/// The authorities cannot be read, or one is none.
pub(super) fn encryption(
    clients: &[Client],
    authorities: Option<&[u8]>,
) -> Result<Option<Arc<ClientConfig>>, RedisError> {
    let is_encrypted = |client: &Client| matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    if !clients.iter().any(is_encrypted) {
        return Ok(None);
    }
    let config = ClientConfig::builder().with_root_certificates(trusted(authorities)?).with_no_client_auth();
    Ok(Some(Arc::new(config)))
}

/// The authorities given, as PEM; else the system's.
fn trusted(authorities: Option<&[u8]>) -> Result<RootCertStore, RedisError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|error| no_tls(&error))?).map_err(|error| no_tls(&error))?;
            }
        }
        None => {
            let mut system = rustls_native_certs::load_native_certs();
            if let Some(error) = system.errors.pop() {
                return Err(no_tls(&error));
            }
            for certificate in system.certs {
                roots.add(certificate).map_err(|error| no_tls(&error))?;
            }
        }
    }
    Ok(roots)
}

fn no_tls(error: &dyn std::error::Error) -> RedisError {
    (ErrorKind::InvalidClientConfig, "TLS cannot be set up", error.to_string()).into()
}

/// Has the driver introduce us, and takes the socket back.
async fn greet(info: &ConnectionInfo, socket: Socket) -> Result<Socket, RedisError> {
    let lent = Lent(Arc::new(Mutex::new(socket)));
    let settings: &RedisConnectionInfo = info.redis_settings();
    // Every reply to its handshake was read by then, and it asked for nothing else.
    drop(MultiplexedConnection::new(settings, lent.clone()).await?);
    let socket = Arc::into_inner(lent.0).ok_or((ErrorKind::Client, "the driver keeps the socket"))?;
    Ok(socket.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A socket that is given back.
#[derive(Clone)]
struct Lent(Arc<Mutex<Socket>>);

impl Lent {
    fn socket(&self) -> MutexGuard<'_, Socket> {
        // Only one uses it at a time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.socket()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.socket()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.socket()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.socket()).poll_shutdown(cx)
    }
}
