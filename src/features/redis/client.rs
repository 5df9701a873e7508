//! How a server is connected to: what its URL says, and a socket that notices a peer that vanished.

use std::time::Duration;

use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, io::tcp::socket2::TcpKeepalive};

use super::PATIENCE;

/// After this long without traffic the kernel asks whether the peer is still there.
const IDLE: Duration = Duration::from_secs(15);

/// A client of the server at a URL, its socket set up for requests.
pub(super) fn of(url: &str) -> Result<Client, RedisError> {
    open(url.into_connection_info()?)
}

/// A client of the server at `host:port`, with the secrets and the encryption of another.
pub(super) fn at(other: &Client, address: &str) -> Client {
    let info = other.get_connection_info();
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let (host, port) = (host.to_owned(), port.parse().unwrap_or(6379));
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    Client::open(info.clone().set_addr(addr)).expect("nothing is parsed")
}

fn open(info: ConnectionInfo) -> Result<Client, RedisError> {
    // A peer that vanished without a word: an idle connection finds out by itself, one in use by its unanswered bytes, and
    // not after the kernel's quarter of an hour.
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(PATIENCE);
    let settings = info.tcp_settings().clone().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(PATIENCE * 2);
    Client::open(info.set_tcp_settings(settings))
}
