//! The setups: how each proxy is configured and started. All of them get one worker, keep-alive on both sides, no access log.
//!
//! nginx and Envoy run what an operator would write for a plain pass-through, with their limits on requests per connection
//! lifted. What is not set is each program's own default.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    feast,
    process::{Process, free_address, steady_address},
};

/// The programs to run; one that is `None` is left out.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    /// The Python that has Feast.
    pub(crate) feast: Option<PathBuf>,
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) weir: Option<PathBuf>,
    /// Another build of Weir.
    pub(crate) before: Option<PathBuf>,
    pub(crate) redis: Option<PathBuf>,
}

/// A server that listens.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

/// Where a run keeps its files.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a>(pub(crate) &'a Path);

/// The same, and what its proxies forward to.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) backend: SocketAddr,
}

impl Place<'_> {
    /// Starts `program` and waits for `address`; its log is quoted when it does not come up.
    pub(crate) fn start(self, name: &str, program: &Path, arguments: &[String], address: SocketAddr) -> Result<Server> {
        let log = self.0.join(format!("{name}.log"));
        let mut process = Process::start(program, arguments, &log)?;
        process.wait_for(address).with_context(|| {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            format!("{name} did not start; its last lines, latest first:\n{}", tail.join("\n"))
        })?;
        Ok(Server { process, address })
    }

    /// Writes a configuration file and returns its path.
    pub(crate) fn write(self, name: &str, text: &str) -> Result<String> {
        let path = self.0.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

/// The model server.
pub(crate) fn backend(place: Place<'_>) -> Result<Server> {
    let address = free_address()?;
    place.start("backend", &std::env::current_exe()?, &["backend".into(), address.to_string()], address)
}

/// The bare hyper proxy.
pub(crate) fn bare(site: Site<'_>) -> Result<Server> {
    let address = free_address()?;
    let arguments = ["bare".into(), address.to_string(), site.backend.to_string()];
    site.place.start("bare", &std::env::current_exe()?, &arguments, address)
}

/// nginx with one worker.
pub(crate) fn nginx(site: Site<'_>, program: &Path) -> Result<Server> {
    let address = free_address()?;
    let folder = site.place.0.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body; proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi; uwsgi_temp_path {folder}/nginx-uwsgi; scgi_temp_path {folder}/nginx-scgi;
  upstream backend {{ server {backend}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {address}; keepalive_requests 1000000000;
    location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
  }}
}}
",
        backend = site.backend
    );
    let path = site.place.write("nginx.conf", &config)?;
    let arguments = ["-p".into(), folder.to_string(), "-e".into(), "stderr".into(), "-c".into(), path];
    site.place.start("nginx", program, &arguments, address)
}

/// An address in Envoy's words.
pub(crate) fn envoy_socket(at: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", at.ip(), at.port())
}

/// Envoy with one worker.
pub(crate) fn envoy(site: Site<'_>, program: &Path) -> Result<Server> {
    let address = free_address()?;
    let config = format!(
        "static_resources:
  listeners:
  - name: http
    address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: backend}}}}]}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: backend
    type: STATIC
    load_assignment:
      cluster_name: backend
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {backend}}}}}]}}]
",
        listen = envoy_socket(address),
        backend = envoy_socket(site.backend),
    );
    let path = site.place.write("envoy.yaml", &config)?;
    let arguments = ["-c", &path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    site.place.start("envoy", program, &arguments.map(String::from), address)
}

/// Redis without persistence.
pub(crate) fn redis(place: Place<'_>, program: &Path) -> Result<Server> {
    redis_at(place, program, free_address()?)
}

/// The same, at an address.
pub(crate) fn redis_at(place: Place<'_>, program: &Path, address: SocketAddr) -> Result<Server> {
    let arguments = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"].map(String::from);
    let folder = [place.0.display().to_string(), "--port".into(), address.port().to_string()];
    let name = format!("redis-{}", address.port());
    place.start(&name, program, &[arguments.as_slice(), &folder].concat(), address)
}

/// Weir in front of the model `m`, which joins nothing.
pub(crate) fn weir(site: Site<'_>, program: &Path) -> Result<Server> {
    serve_weir(site, program, "weir", "models:\n  m: {tier: standard}\n")
}

/// Weir in front of the model `m`, which joins nothing and whose predictions are kept.
pub(crate) fn weir_keeping(site: Site<'_>, program: &Path) -> Result<Server> {
    serve_weir(site, program, "weir-keeping", "models:\n  m: {tier: standard, cache: {ttl: 1h}}\n")
}

/// Weir in front of the model `m`, which is sent one user's ten features as a matrix.
pub(crate) fn weir_joined(site: Site<'_>, program: &Path, redis: SocketAddr) -> Result<Server> {
    serve_weir(site, program, "weir-joined", &joined("100MiB", &format!("redis: [\"redis://{redis}\"]")))
}

/// The model `m` with the features of one user; what L1 may hold, and what L2 is told.
pub(crate) fn joined(l1: &str, l2: &str) -> String {
    let view = feast::VIEW;
    let names: Vec<String> = (0..feast::FEATURES).map(feast::feature).collect();
    let columns: Vec<String> = names.iter().map(|name| format!("\"{view}:{name}\"")).collect();
    format!(
        "models:
  m:
    tier: standard
    features:
      - {{view: {view}, join: {{{entity}: {entity}}}, select: [{select}]}}
    inputs: {{as: matrix, name: input-0, datatype: FP32, columns: [{columns}]}}
{features}",
        entity = feast::ENTITY,
        select = names.join(", "),
        columns = columns.join(", "),
        features = features(l1, l2),
    )
}

/// The view alone: what L1 may hold, and what L2 is told. Further keys of `features` may follow.
pub(crate) fn features(l1: &str, l2: &str) -> String {
    let types: Vec<String> =
        (0..feast::FEATURES).map(|index| format!("{}: {{type: DOUBLE}}", feast::feature(index))).collect();
    format!(
        "features:
  project: {project}
  l1: {{capacity: {l1}, ttl: 1h}}
  l2: {{{l2}}}
  views:
    {view}:
      entities: {{{entity}: INT64}}
      features: {{{types}}}
      ttl: 1h
",
        view = feast::VIEW,
        entity = feast::ENTITY,
        project = feast::PROJECT,
        types = types.join(", "),
    )
}

fn serve_weir(site: Site<'_>, program: &Path, name: &str, models: &str) -> Result<Server> {
    let config = format!(
        "tiers:
  standard: {{pool: backend}}
pools:
  backend: {{endpoints: [\"http://{backend}\"]}}
{models}",
        backend = site.backend,
    );
    Ok(weir_with(site.place, (name, program), &config)?.server)
}

/// Weir, and where it tells of itself.
pub(crate) struct Weir {
    pub(crate) server: Server,
    pub(crate) admin: SocketAddr,
}

/// Weir with one worker, and with what `config` says beside where it listens.
pub(crate) fn weir_with(place: Place<'_>, (name, program): (&str, &Path), config: &str) -> Result<Weir> {
    let (http, grpc, admin) = (steady_address()?, steady_address()?, steady_address()?);
    let config = format!(
        "listen: {{http: \"{http}\", grpc: \"{grpc}\", admin: \"{admin}\"}}
workers: 1
drain: {{delay: 0s, deadline: 1s}}
{config}"
    );
    let path = place.write(&format!("{name}.yaml"), &config)?;
    let server = place.start(name, program, &["serve".into(), "-c".into(), path], http)?;
    Ok(Weir { server, admin })
}
