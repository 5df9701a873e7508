//! A connection to the Redis of the features for whoever keeps something else there: one, made when it is needed and again when it broke.
//!
//! The Redis driver's own connections do, which carry many commands at once: one server's, a cluster's, or that of the master that
//! sentinels name and that says itself that it is one. Rows are read over connections of another kind (`features/redis`).

use std::{path::Path, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, RedisError, RedisFuture, ScriptInvocation, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::socket2::TcpKeepalive,
};
use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use crate::config::{self, RedisMode};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// After this long without traffic the kernel asks whether the peer is still there.
const IDLE: Duration = Duration::from_secs(15);

/// Where to connect to, and the connection, while there is one.
pub(crate) struct Link {
    servers: Servers,
    /// How long an answer may take.
    answer: Duration,
    connection: ArcSwapOption<Connection>,
    /// Held by who makes a connection.
    making: Mutex<()>,
}

enum Servers {
    Single(Box<Client>),
    Sentinels { sentinels: Vec<Client>, master: String },
    Cluster(Box<ClusterClient>),
}

/// To a server, or to all of a cluster's.
#[derive(Clone)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Connects to nothing yet. No answer takes longer than `answer`.
    ///
    /// # Errors
    ///
    /// A URL that is none, or authorities that cannot be read.
    pub(crate) fn new(config: &config::Redis, answer: Duration) -> Result<Self, RedisError> {
        let authorities = config.ca.as_deref().map(certificates).transpose()?;
        let infos = config.urls.iter().map(|url| info(&url.0)).collect::<Result<Vec<_>, _>>()?;
        let clients = || infos.iter().map(|info| client(info, authorities.as_deref())).collect::<Result<Vec<_>, _>>();
        let servers = match &config.mode {
            RedisMode::Single => Servers::Single(Box::new(clients()?.swap_remove(0))),
            RedisMode::Sentinel { master } => {
                Servers::Sentinels { sentinels: clients()?, master: master.as_ref().into() }
            }
            RedisMode::Cluster => {
                let builder = ClusterClient::builder(infos).connection_timeout(CONNECT).response_timeout(answer);
                // Else it waits seconds between its own tries.
                let builder = builder.retries(2).min_retry_wait(10).max_retry_wait(200);
                let certified = match authorities {
                    Some(pem) => builder.certs(TlsCertificates { client_tls: None, root_cert: Some(pem) }),
                    None => builder,
                };
                Servers::Cluster(Box::new(certified.build()?))
            }
        };
        Ok(Self { servers, answer, connection: ArcSwapOption::empty(), making: Mutex::new(()) })
    }

    /// The connection that there is.
    pub(crate) fn standing(&self) -> Option<Arc<Connection>> {
        self.connection.load_full()
    }

    /// The connection that there is, or a new one.
    ///
    /// # Errors
    ///
    /// None can be made.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing was made.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, RedisError> {
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let _making = self.making.lock().await;
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let made = tokio::time::timeout(CONNECT + self.answer, self.connect()).await;
        let made = made.unwrap_or_else(|_| Err((ErrorKind::Io, "no connection in time").into()))?;
        let made = Arc::new(made);
        self.connection.store(Some(Arc::clone(&made)));
        Ok(made)
    }

    /// Calls a script. Where the connection broke it calls once more, over a new one: what the script does may be done twice.
    ///
    /// # Errors
    ///
    /// What Redis says, or that it cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the script may have run or not.
    pub(crate) async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        match self.call_once(script).await {
            Err(error) if is_broken(&error) => self.call_once(script).await,
            answer => answer,
        }
    }

    async fn call_once<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let connection = self.connection().await?;
        let answer = script.invoke_async(&mut Connection::clone(&connection)).await;
        answer.inspect_err(|error| self.heed(&connection, error))
    }

    /// Lets go of the connection that failed where its error says that another one may fare better. Many requests fail with one
    /// connection, and late: by then another may stand, which they say nothing of.
    pub(crate) fn heed(&self, failed: &Arc<Connection>, error: &RedisError) {
        if is_broken(error) {
            self.connection.compare_and_swap(failed, None);
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        match &self.servers {
            Servers::Single(client) => Ok(Connection::One(to(client, self.answer).await?)),
            Servers::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
            Servers::Sentinels { sentinels, master } => {
                let mut last = RedisError::from((ErrorKind::Client, "no sentinel"));
                for sentinel in sentinels {
                    match master_of(sentinel, master, self.answer).await {
                        Ok(connection) => return Ok(Connection::One(connection)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Whether another connection may fare better: this one broke, hangs, or leads to a server that is no master any more.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    let replaced = matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly));
    replaced || error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error()
}

async fn to(client: &Client, answer: Duration) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(answer));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// A connection to the master that a sentinel names, once it says that it is one. Its user, password, database and encryption are
/// those of the sentinel's URL; a sentinel is asked with the password only if it wants one.
async fn master_of(sentinel: &Client, name: &str, answer: Duration) -> Result<MultiplexedConnection, RedisError> {
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
    let mut master = to(&Client::open(info.clone().set_addr(addr))?, answer).await?;
    let role: Value = ::redis::cmd("ROLE").query_async(&mut master).await?;
    match role {
        Value::Array(parts) if parts.first().is_some_and(is_master) => Ok(master),
        _ => Err((ErrorKind::Client, "the server that the sentinel names is no master").into()),
    }
}

fn is_master(role: &Value) -> bool {
    matches!(role, Value::BulkString(role) if role == b"master")
}

async fn ask(sentinel: &Client, name: &str) -> Result<Option<(String, u16)>, RedisError> {
    let mut connection = to(sentinel, CONNECT).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{features::tests::servers::Server, fixture};

    #[tokio::test]
    async fn a_late_error_of_a_connection_that_broke_leaves_its_successor_alone() {
        let server = Server::start();
        let config = fixture::redis(vec![config::Secret(server.url())]);
        let link = Link::new(&config, Duration::from_secs(60)).unwrap();
        let broken = RedisError::from((ErrorKind::Io, "broken pipe"));
        let first = link.connection().await.unwrap();
        link.heed(&first, &RedisError::from((ErrorKind::Client, "not asked so")));
        assert!(link.standing().is_some_and(|standing| Arc::ptr_eq(&standing, &first)), "another would fare no better");
        link.heed(&first, &broken);
        assert!(link.standing().is_none());
        let second = link.connection().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        link.heed(&first, &broken);
        assert!(
            link.standing().is_some_and(|standing| Arc::ptr_eq(&standing, &second)),
            "it is not the one that broke"
        );
    }
}
