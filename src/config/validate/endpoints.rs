//! Endpoints: those that are named, and where others are found.

use std::{collections::HashSet, sync::Arc};

use crate::config::{
    Discovery, Dns, Endpoint, EndpointsFile, Upstream,
    problems::Path,
    raw::{self, Ports, Span},
};

use super::{Check, LABELS, url};

/// What a list of endpoints says.
#[derive(Debug, Default)]
pub(in crate::config) struct Found {
    pub(in crate::config) endpoints: Vec<Endpoint>,
    pub(in crate::config) discovery: Vec<Discovery>,
}

impl Check<'_> {
    /// Those of a list; `zone`: of those that name none.
    pub(super) fn endpoints(&mut self, path: &Path, raw: &[raw::Endpoint], zone: Option<&Arc<str>>) -> Found {
        if raw.is_empty() {
            self.wrong(path, "no endpoint", "at least one");
        }
        let (mut found, mut seen) = (Found::default(), HashSet::new());
        for (i, endpoint) in raw.iter().enumerate() {
            let (path, before) = (path.item(i), found.endpoints.len());
            match endpoint {
                raw::Endpoint::Url(text) => {
                    let http = self.upstream(&path, text);
                    found.endpoints.extend(named(http, None, zone.cloned()));
                }
                raw::Endpoint::Ports(ports) => self.ports(&path, ports, zone, &mut found),
            }
            let addresses = found.endpoints.get(before).map(addresses).unwrap_or_default();
            if let Some(address) = addresses.iter().find(|address| seen.contains(*address)) {
                self.wrong(&path, format_args!("{address} is in this pool already"), "each address once");
            }
            seen.extend(addresses);
        }
        found
    }

    fn ports(&mut self, path: &Path, ports: &Ports, zone: Option<&Arc<str>>, found: &mut Found) {
        let own = ports.zone.as_ref().map(|zone| self.label(&path.key("zone"), zone));
        let zone = own.or_else(|| zone.cloned());
        self.contradictions(path, ports);
        if let Some(file) = &ports.file {
            found.discovery.push(Discovery::File(EndpointsFile { path: file.into(), zone }));
        } else if let Some(name) = &ports.dns {
            found.discovery.extend(self.dns(path, name, ports).map(|dns| Discovery::Dns(Dns { zone, ..dns })));
        } else {
            let http = ports.http.as_ref().and_then(|text| self.upstream(&path.key("http"), text));
            let grpc = ports.grpc.as_ref().and_then(|text| self.upstream(&path.key("grpc"), text));
            found.endpoints.extend(named(http, grpc, zone));
        }
    }

    /// Keys that do not go together.
    fn contradictions(&mut self, path: &Path, ports: &Ports) {
        let Ports { http, grpc, dns, grpc_port, refresh, file, zone: _ } = ports;
        if http.is_some() && dns.is_some() {
            self.wrong(&path.key("dns"), "both http and dns name the HTTP port", "one of them");
        }
        if file.is_some() && (http.is_some() || grpc.is_some() || dns.is_some()) {
            self.wrong(
                &path.key("file"),
                "an endpoint's ports stand beside the file",
                "file and zone, or ports and zone",
            );
        }
        if http.is_none() && dns.is_none() && grpc.is_none() && file.is_none() {
            self.wrong(path, "neither an HTTP nor a gRPC port", "http, grpc or both; or dns; or file");
        }
        if dns.is_none() && grpc_port.is_some() {
            self.wrong(&path.key("grpc_port"), "there is no dns whose addresses it could belong to", "beside dns");
        }
        if dns.is_none() && refresh.is_some() {
            self.wrong(&path.key("refresh"), "there is no dns to resolve", "beside dns");
        }
    }

    fn dns(&mut self, path: &Path, name: &str, ports: &Ports) -> Option<Dns> {
        let at = path.key("dns");
        let http = url::host_port(name, None).map_err(|wrong| self.wrong(&at, wrong, "host:port")).ok();
        let refresh = self.positive(&path.key("refresh"), ports.refresh.unwrap_or(Span::secs(5)));
        let grpc = path.key("grpc");
        let same = ports.grpc.as_ref().and_then(|text| self.upstream(&grpc, text));
        let http = http?;
        if same.as_ref().is_some_and(|same| same.host != http.host) {
            self.wrong(&grpc, "another host than dns", format_args!("http://{}:port, or grpc_port", http.host));
        }
        let grpc_port = ports.grpc_port.or(same.map(|same| same.port));
        Some(Dns { http, grpc_port, zone: None, refresh })
    }

    /// A zone's or a region's name.
    pub(super) fn label(&mut self, path: &Path, name: &str) -> Arc<str> {
        self.name(path, name, &LABELS);
        name.into()
    }
}

/// An endpoint is called by the authority of its first port; one without a port was told already.
fn named(http: Option<Upstream>, grpc: Option<Upstream>, zone: Option<Arc<str>>) -> Option<Endpoint> {
    let name = http.as_ref().or(grpc.as_ref())?.authority.clone();
    Some(Endpoint { name, http, grpc, zone })
}

fn addresses(endpoint: &Endpoint) -> Vec<String> {
    let ports = [&endpoint.http, &endpoint.grpc].into_iter().flatten();
    ports.map(|upstream| format!("{}:{}", upstream.host, upstream.port)).collect()
}
