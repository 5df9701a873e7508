//! Sentinel: which server is the master of a name now, as a sentinel says and the server itself confirms.
//!
//! A sentinel that was cut off may still name the old master, and an old master that comes back is one for a while: so the
//! server that is named must say that it is a master. The user, the password, the database and the encryption of the
//! sentinels' URLs are the master's (Feast has it so, too); a sentinel is asked without a password, and with that one only if
//! it wants one.
//!
//! **Source:** Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel".

use std::{collections::HashMap, sync::Arc};

use ::redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisConnectionInfo, RedisError, Value};
use tokio::time::timeout;

use super::{PATIENCE, node::Node, topology};
use crate::features::l2::{Error, Sent};

/// The address of the master of that name, as one sentinel says.
///
/// # Errors
///
/// The sentinel does not answer within [`PATIENCE`], or knows no such master.
pub(super) async fn named(sentinel: &Client, name: &str) -> Result<Arc<str>, Error> {
    let from: Arc<str> = sentinel.get_connection_info().addr().to_string().into();
    let asked = timeout(PATIENCE, either_way(sentinel, "GET-MASTER-ADDR-BY-NAME", name)).await;
    let unreachable = |why: Arc<str>| Error::Unreachable { address: Arc::clone(&from), why, sent: Sent::Perhaps };
    let known: Known =
        asked.map_err(|_| Error::TimedOut(PATIENCE))?.map_err(|error| unreachable(error.to_string().into()))?;
    let refused = |why: String| Error::Refused { address: Arc::clone(&from), why: why.into() };
    let (host, port) = known.ok_or_else(|| refused(format!("the sentinel knows no master {name:?}")))?;
    topology::address(&host, &port, &from).map(Into::into).ok_or_else(|| refused("the master has no address".into()))
}

/// The addresses of the replicas of that master, as one sentinel says: those that it does not think are down.
///
/// # Errors
///
/// As [`named`].
pub(super) async fn replicas(sentinel: &Client, name: &str) -> Result<Vec<Arc<str>>, Error> {
    let from: Arc<str> = sentinel.get_connection_info().addr().to_string().into();
    let asked = timeout(PATIENCE, either_way(sentinel, "REPLICAS", name)).await;
    let unreachable = |error: RedisError| Error::Unreachable {
        address: Arc::clone(&from),
        why: error.to_string().into(),
        sent: Sent::Perhaps,
    };
    let known: Vec<HashMap<String, String>> = asked.map_err(|_| Error::TimedOut(PATIENCE))?.map_err(unreachable)?;
    let is_up = |replica: &HashMap<String, String>| {
        let flags = replica.get("flags").map_or("", String::as_str);
        !["s_down", "o_down", "disconnected"].iter().any(|down| flags.contains(down))
    };
    let address = |replica: HashMap<String, String>| {
        let (host, port) = (replica.get("ip")?, replica.get("port")?);
        topology::address(host, port, &from).map(Into::into)
    };
    Ok(known.into_iter().filter(is_up).filter_map(address).collect())
}

/// Fails unless the server says that it is a master.
pub(super) async fn confirm(server: &Node) -> Result<(), Error> {
    let asked = timeout(PATIENCE, server.ask(::redis::cmd("ROLE"))).await;
    let role = asked.unwrap_or(Err(Error::TimedOut(PATIENCE)))?;
    let said = match &role {
        Value::Array(parts) => parts.first(),
        _ => None,
    };
    match said {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(Error::Refused { address: Arc::clone(server.address()), why: "is not a master".into() }),
    }
}

type Known = Option<(String, String)>;

async fn either_way<T: FromRedisValue>(sentinel: &Client, what: &str, name: &str) -> Result<T, RedisError> {
    let info = sentinel.get_connection_info();
    match ask(info.clone().set_redis_settings(RedisConnectionInfo::default()), (what, name)).await {
        Err(error) if error.code() == Some("NOAUTH") => {
            // A sentinel has no databases.
            ask(info.clone().set_redis_settings(info.redis_settings().clone().set_db(0)), (what, name)).await
        }
        answer => answer,
    }
}

async fn ask<T: FromRedisValue>(info: ::redis::ConnectionInfo, (what, name): (&str, &str)) -> Result<T, RedisError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    let mut connection = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
    ::redis::cmd("SENTINEL").arg(what).arg(name).query_async(&mut connection).await
}
