//! Addresses: parseable, and no two alike; limits: none that refuses everything.

use std::net::SocketAddr;

use super::Check;
use crate::config::{Listen, Secret, problems::Path};

impl Check<'_> {
    pub(super) fn listen(&mut self) -> Listen {
        let raw = &self.raw.listen;
        let path = Path::of("listen");
        let http = self.address(&path.key("http"), &raw.http);
        let grpc = (raw.grpc != "none").then(|| self.address(&path.key("grpc"), &raw.grpc));
        let admin = self.address(&path.key("admin"), &raw.admin);
        let named = [("http", Some(http)), ("grpc", grpc), ("admin", Some(admin))];
        for (i, (name, address)) in named.iter().enumerate() {
            let clash = named[..i].iter().find(|(_, other)| collide(*address, *other));
            if let Some((other, _)) = clash {
                self.wrong(&path.key(name), format_args!("the same address as listen.{other}"), "a port of its own");
            }
        }
        if raw.max_body.0 == 0 {
            self.wrong(&path.key("max_body"), "zero", "at least 1B");
        }
        let hold_bodies = raw.hold_bodies.map_or(raw.max_body.0.saturating_mul(4), |size| size.0);
        if hold_bodies < raw.max_body.0 {
            let room = "less than listen.max_body, so that the longest body would always be refused";
            self.wrong(&path.key("hold_bodies"), room, format_args!("at least {}", raw.max_body));
        }
        if raw.admin_token.as_ref().is_some_and(|token| token.0.is_empty()) {
            self.wrong(&path.key("admin_token"), "empty", "a token, or leave the key out");
        }
        Listen {
            http,
            grpc,
            admin,
            admin_token: raw.admin_token.as_ref().map(|token| Secret(token.0.clone())),
            max_body: raw.max_body.0,
            hold_body: usize::try_from(raw.hold_body.0.min(raw.max_body.0)).unwrap_or(usize::MAX),
            hold_bodies,
            max_rows: raw.max_rows as usize,
            idle_timeout: self.positive(&path.key("idle_timeout"), raw.idle_timeout),
            send_timeout: self.positive(&path.key("send_timeout"), raw.send_timeout),
            max_connection_age: self.positive(&path.key("max_connection_age"), raw.max_connection_age),
        }
    }

    fn address(&mut self, path: &Path, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            self.wrong(path, "not an address", "ip:port, such as 0.0.0.0:8080 or [::1]:8080");
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }
}

/// Port 0 is a free port each time; an unspecified address takes a port on all.
fn collide(a: Option<SocketAddr>, b: Option<SocketAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
