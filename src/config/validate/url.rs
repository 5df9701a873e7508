//! URLs: of upstreams, of Redis, of object stores.
//!
//! Each function says what is wrong in words that do not repeat the URL, which may hold a password.

use crate::config::Upstream;

pub(super) const UPSTREAM: &str = "http://host:port";
pub(super) const WEB: &str = "http://host[:port][/path], or https://";
pub(super) const REDIS: &str = "redis://[user:password@]host[:port][/db], or rediss:// for TLS";
pub(super) const OBJECT_STORE: &str = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder";

pub(super) const REGISTRY: &str =
    "s3://bucket/key, gs://bucket/key, az://container/key, file:///path, or a path on this machine";

/// Reads `http://host[:port]`.
pub(super) fn upstream(text: &str) -> Result<Upstream, String> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(match text.split_once("://") {
            Some((scheme, _)) => format!("{scheme}:// is not supported"),
            None => "not a URL".to_owned(),
        });
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err("a URL with more than a host and a port".to_owned());
    }
    host_port(authority, Some(80))
}

/// Checks an `http://` or `https://` URL without user, query and fragment.
pub(super) fn web(text: &str) -> Result<(), String> {
    let (scheme, rest) = text.split_once("://").ok_or("not a URL")?;
    if !matches!(scheme, "http" | "https") {
        return Err(format!("{scheme}:// is not supported"));
    }
    if rest.contains(['?', '#', '@']) || rest.contains(char::is_whitespace) {
        return Err("a URL with more than a host, a port and a path".to_owned());
    }
    host_port(rest.split('/').next().unwrap_or_default(), Some(80)).map(|_| ())
}

/// Reads `host:port`; the port may be left out where there is a default.
pub(super) fn host_port(authority: &str, default: Option<u16>) -> Result<Upstream, String> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<std::net::Ipv6Addr>().is_ok() => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("no port after the address".to_owned()),
        },
        Some(_) => return Err("not an IPv6 address between the brackets".to_owned()),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let bracketed = authority.starts_with('[');
    let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if host.is_empty() || !(bracketed || host.chars().all(named)) {
        return Err("not a host name".to_owned());
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("not a port from 1 to 65535")?,
        None => default.ok_or("no port")?,
    };
    Ok(Upstream { authority: authority.into(), host: host.into(), port })
}

/// Checks a Redis URL; the client's own parser has the last word. Returns the number of its database.
pub(super) fn redis(text: &str) -> Result<i64, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("redis" | "rediss") => {}
        Some(other) => return Err(format!("{other}:// is not Redis")),
        None => return Err("not a URL".to_owned()),
    }
    // Its error can repeat the URL.
    let info = redis::IntoConnectionInfo::into_connection_info(text).map_err(|_| "not a Redis URL".to_owned())?;
    Ok(info.redis_settings().db())
}

/// Checks the URL of Feast's registry: an object, or a path.
pub(super) fn registry(text: &str) -> Result<(), String> {
    if !text.contains("://") {
        return if text.is_empty() { Err("empty".to_owned()) } else { Ok(()) };
    }
    object_store(text).map_err(|wrong| wrong.replace("folder", "path"))?;
    let object = text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, object)| object);
    if object.trim_end_matches('/').is_empty() { Err("no object in the bucket".to_owned()) } else { Ok(()) }
}

/// Checks an object store's URL.
pub(super) fn object_store(text: &str) -> Result<(), String> {
    let Some((scheme, rest)) = text.split_once("://") else { return Err("not a URL".to_owned()) };
    match scheme {
        "file" if rest.starts_with('/') && rest.len() > 1 => Ok(()),
        "file" => Err("not an absolute folder".to_owned()),
        "s3" | "gs" | "az" if rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()) => Ok(()),
        "s3" | "gs" | "az" => Err("no bucket".to_owned()),
        other => Err(format!("{other}:// is not an object store")),
    }
}
