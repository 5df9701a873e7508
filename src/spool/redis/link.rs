//! The connection to the spool's Redis: one, made when it is needed and again when it broke.
//!
//! Nothing here is on a request's path, so the Redis driver's own connections do: one server's, a cluster's (all of the spool's keys
//! share a slot), or that of the master that sentinels name and that says itself that it is one.

use std::{path::Path, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, ScriptInvocation, ServerErrorKind, TlsCertificates, aio::MultiplexedConnection,
    cluster::ClusterClient, cluster_async::ClusterConnection, io::tcp::socket2::TcpKeepalive,
};
use tokio::sync::Mutex;

use crate::config::{self, RedisMode};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// After this long without traffic the kernel asks whether the peer is still there.
const IDLE: Duration = Duration::from_secs(15);

pub(super) struct Link {
    servers: Servers,
    connection: Mutex<Option<Connection>>,
}

enum Servers {
    Single(Box<Client>),
    Sentinels { sentinels: Vec<Client>, master: String },
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Connects to nothing yet.
    pub(super) fn new(config: &config::Redis) -> Result<Self, RedisError> {
        let authorities = config.ca.as_deref().map(certificates).transpose()?;
        let infos = config.urls.iter().map(|url| info(&url.0)).collect::<Result<Vec<_>, _>>()?;
        let clients = || infos.iter().map(|info| client(info, authorities.as_deref())).collect::<Result<Vec<_>, _>>();
        let servers = match &config.mode {
            RedisMode::Single => Servers::Single(Box::new(clients()?.swap_remove(0))),
            RedisMode::Sentinel { master } => {
                Servers::Sentinels { sentinels: clients()?, master: master.as_ref().into() }
            }
            RedisMode::Cluster => {
                let builder = ClusterClient::builder(infos).connection_timeout(CONNECT).response_timeout(ANSWER);
                // Else it waits seconds between its own tries; whoever asks the spool comes back anyway.
                let builder = builder.retries(2).min_retry_wait(10).max_retry_wait(200);
                let certified = match &authorities {
                    Some(pem) => builder.certs(TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) }),
                    None => builder,
                };
                Servers::Cluster(Box::new(certified.build()?))
            }
        };
        Ok(Self { servers, connection: Mutex::new(None) })
    }

    /// Calls a script. Where the connection broke it calls once more, over a new one: the spool's steps may be done twice.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the step may be done or not.
    pub(super) async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        match self.call_once(script).await {
            Err(error) if is_broken(&error) => self.call_once(script).await,
            answer => answer,
        }
    }

    async fn call_once<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let answer = match self.connection().await? {
            Connection::One(mut connection) => script.invoke_async(&mut connection).await,
            Connection::Cluster(mut connection) => script.invoke_async(&mut connection).await,
        };
        if answer.as_ref().is_err_and(is_broken) {
            *self.connection.lock().await = None;
        }
        answer
    }

    async fn connection(&self) -> Result<Connection, RedisError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let made = tokio::time::timeout(ANSWER, self.connect()).await;
        let made = made.unwrap_or_else(|_| Err((ErrorKind::Io, "no connection in time").into()))?;
        *connection = Some(made.clone());
        Ok(made)
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        match &self.servers {
            Servers::Single(client) => Ok(Connection::One(to(client).await?)),
            Servers::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
            Servers::Sentinels { sentinels, master } => {
                let mut last = RedisError::from((ErrorKind::Client, "no sentinel"));
                for sentinel in sentinels {
                    match master_of(sentinel, master).await {
                        Ok(connection) => return Ok(Connection::One(connection)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

/// Whether another connection may fare better: this one broke, hangs, or leads to a server that is no master any more.
fn is_broken(error: &RedisError) -> bool {
    let replaced = matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly));
    replaced || error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error()
}

async fn to(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// A connection to the master that a sentinel names, once it says that it is one. Its user, password, database and encryption are
/// those of the sentinel's URL; a sentinel is asked with the password only if it wants one.
async fn master_of(sentinel: &Client, name: &str) -> Result<MultiplexedConnection, RedisError> {
    let info = sentinel.get_connection_info();
    let plain = Client::open(info.clone().set_redis_settings(RedisConnectionInfo::default()))?;
    let named = match ask(&plain, name).await {
        Err(error) if error.code() == Some("NOAUTH") => {
            let settings = info.redis_settings().clone().set_db(0);
            ask(&Client::open(info.clone().set_redis_settings(settings))?, name).await
        }
        named => named,
    }?;
    let (host, port) = named.ok_or((ErrorKind::Client, "the sentinel knows no such master"))?;
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    let mut master = to(&Client::open(info.clone().set_addr(addr))?).await?;
    let role: ::redis::Value = ::redis::cmd("ROLE").query_async(&mut master).await?;
    match role {
        ::redis::Value::Array(parts) if parts.first().is_some_and(is_master) => Ok(master),
        _ => Err((ErrorKind::Client, "the server that the sentinel names is no master").into()),
    }
}

fn is_master(role: &::redis::Value) -> bool {
    matches!(role, ::redis::Value::BulkString(role) if role == b"master")
}

async fn ask(sentinel: &Client, name: &str) -> Result<Option<(String, u16)>, RedisError> {
    let mut connection = to(sentinel).await?;
    ::redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut connection).await
}

fn info(url: &str) -> Result<ConnectionInfo, RedisError> {
    let info = url.into_connection_info()?;
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(CONNECT);
    let settings = info.tcp_settings().clone().set_nodelay(true).set_keepalive(keepalive);
    Ok(info.set_tcp_settings(settings))
}

fn client(info: &ConnectionInfo, authorities: Option<&[u8]>) -> Result<Client, RedisError> {
    match (info.addr(), authorities) {
        (ConnectionAddr::TcpTls { .. }, Some(pem)) => {
            Client::build_with_tls(info.clone(), TlsCertificates { client_tls: None, root_cert: Some(pem.to_vec()) })
        }
        _ => Client::open(info.clone()),
    }
}

fn certificates(path: &Path) -> Result<Vec<u8>, RedisError> {
    std::fs::read(path).map_err(|error| {
        let text = format!("{}: {error}", path.display());
        (ErrorKind::InvalidClientConfig, "features.l2.ca cannot be used", text).into()
    })
}
