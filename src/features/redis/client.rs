//! How a server is connected to: what its URL says, and a socket that notices a peer that vanished.

use std::{path::Path, time::Duration};

use ::redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, TlsCertificates,
    io::tcp::socket2::TcpKeepalive,
};

use super::PATIENCE;
use crate::config;

/// After this long without traffic the kernel asks whether the peer is still there.
const IDLE: Duration = Duration::from_secs(15);

/// A client for each URL, its socket set up for requests.
///
/// # Errors
///
/// A URL that is none, or authorities that hold none.
pub(super) fn of_all(urls: &[config::Secret], authorities: Option<&[u8]>) -> Result<Vec<Client>, RedisError> {
    urls.iter().map(|url| of(&url.0, authorities)).collect()
}

fn of(url: &str, authorities: Option<&[u8]>) -> Result<Client, RedisError> {
    let info = url.into_connection_info()?;
    match (info.addr(), authorities) {
        (ConnectionAddr::TcpTls { .. }, Some(pem)) => {
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(pem.to_vec()) };
            open(Client::build_with_tls(info, trusted)?.get_connection_info().clone())
        }
        _ => open(info),
    }
}

/// The certificates in the config's file of authorities, as PEM.
///
/// # Errors
///
/// It cannot be read, or holds none.
pub(super) fn authorities(config: &config::Redis) -> Result<Option<Vec<u8>>, RedisError> {
    config.ca.as_deref().map(certificates).transpose()
}

fn certificates(path: &Path) -> Result<Vec<u8>, RedisError> {
    let wrong = |why: String| {
        let text = format!("{}: {why}", path.display());
        RedisError::from((ErrorKind::InvalidClientConfig, "features.l2.ca cannot be used", text))
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let any = memchr::memmem::find(&pem, b"-----BEGIN CERTIFICATE-----").is_some();
    if any { Ok(pem) } else { Err(wrong("no certificate in it; allowed: a PEM file of certificates".into())) }
}

/// A client of the server at `host:port`, as `topology::address` makes it, with the secrets and the encryption of another.
pub(super) fn at(other: &Client, address: &str) -> Client {
    let info = other.get_connection_info();
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let (host, port) = parts.expect("an address ends in a port");
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
