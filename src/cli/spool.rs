//! `weir spool`: what is kept for later, and what an operator does with it.
//!
//! Redis's spool is asked directly, whatever gateway runs. The embedded one belongs to its process: the running gateway is asked over its
//! admin port, and where none runs the file is opened.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use http::{Method, StatusCode};
use serde_json::Value;

use super::admin::Gateway;
use crate::{
    config::{Config, SpoolStore},
    spool::{
        self, Spool, Standing,
        desk::{Ask, Told},
    },
};

/// Entries that one `--state` takes at most.
const MOST: usize = 10_000;

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the oldest entries, and how full the spool is.
    #[command(
        after_help = "Examples:\n  weir spool ls -c weir.yaml\n  weir spool ls -c weir.yaml --state parked --limit 1000"
    )]
    Ls {
        #[command(flatten)]
        file: super::args::ConfigFile,
        /// Only entries in this state: waiting, running, done or parked.
        #[arg(long, value_parser = standing)]
        state: Option<Standing>,
        /// How many at most: 1 to 10000.
        #[arg(long, default_value_t = 100, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST as u64))]
        limit: usize,
    },
    /// Print all that is kept of an entry, as JSON: the request, and its result.
    #[command(after_help = "Example:\n  weir spool show -c weir.yaml 0c6f…")]
    Show {
        #[command(flatten)]
        file: super::args::ConfigFile,
        /// The entry's id.
        id: String,
    },
    /// Try entries now, with all their tries before them: waiting ones need not wait any longer, parked ones are not parked any more.
    #[command(
        after_help = "Examples:\n  weir spool replay -c weir.yaml 0c6f…\n  weir spool replay -c weir.yaml --state parked"
    )]
    Replay(Chosen),
    /// Forget entries, whatever their state: a result that is there, or comes, is lost.
    #[command(
        after_help = "Examples:\n  weir spool drop -c weir.yaml 0c6f…\n  weir spool drop -c weir.yaml --state done"
    )]
    Drop(Chosen),
}

/// Which entries: some, or all in a state.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "state"]))]
pub(super) struct Chosen {
    #[command(flatten)]
    pub(super) file: super::args::ConfigFile,
    /// Their ids.
    ids: Vec<String>,
    /// All in this state (the 10000 oldest): waiting, running, done or parked.
    #[arg(long, value_parser = standing)]
    state: Option<Standing>,
}

fn standing(name: &str) -> Result<Standing, String> {
    Standing::named(name).ok_or_else(|| format!("allowed: {}", Standing::ALL.map(Standing::name).join(", ")))
}

impl Command {
    pub(super) const fn file(&self) -> &super::args::ConfigFile {
        match self {
            Self::Ls { file, .. } | Self::Show { file, .. } => file,
            Self::Replay(chosen) | Self::Drop(chosen) => &chosen.file,
        }
    }
}

/// Does it, and prints what came of it.
///
/// # Errors
///
/// The spool cannot be reached, or an entry is not there or not in a state for that.
pub(super) fn run(config: &Config, command: &Command) -> anyhow::Result<()> {
    super::serve::block_on(async {
        let desk = Desk::of(config)?;
        match command {
            Command::Ls { state, limit, .. } => super::print(&table(&desk.ask(Ask::List(*state, *limit)).await?)),
            Command::Show { id, .. } => {
                super::print(&format!("{:#}\n", desk.ask(Ask::Show(id.as_str().into())).await?))
            }
            Command::Replay(chosen) => desk.each(chosen, "replayed", Ask::Replay).await,
            Command::Drop(chosen) => desk.each(chosen, "dropped", Ask::Forget).await,
        }
    })
}

/// Who is asked.
enum Desk {
    Store(Box<Spool>),
    Gateway { admin: SocketAddr, token: Option<String> },
}

impl Desk {
    fn of(config: &Config) -> anyhow::Result<Self> {
        let gateway = || {
            let mut admin = config.listen.admin;
            if admin.ip().is_unspecified() {
                admin.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            Self::Gateway { admin, token: config.listen.admin_token.as_ref().map(|token| token.0.clone()) }
        };
        let store = |spool| Self::Store(Box::new(spool));
        match &config.spool.store {
            SpoolStore::Embedded { path: None } => Ok(gateway()),
            SpoolStore::Embedded { path: Some(path) } if !path.exists() => Ok(gateway()),
            // Another process has the file, hence a gateway runs.
            SpoolStore::Embedded { .. } => Ok(Spool::open(&config.spool).map_or_else(|_| gateway(), store)),
            SpoolStore::Redis { .. } => Ok(store(Spool::open(&config.spool)?)),
        }
    }

    async fn ask(&self, ask: Ask) -> anyhow::Result<Value> {
        match self {
            Self::Store(spool) => match spool.tell(ask, spool::now()).await? {
                Told::This(told) => Ok(told),
                Told::Nothing => bail!("no such entry"),
                Told::Not(standing) => bail!("not while it is {}; allowed: waiting, parked", standing.name()),
            },
            Self::Gateway { admin, token } => {
                let asked = over_http(&admin.to_string(), token.as_deref(), &ask).await;
                asked.context("the spool is the running gateway's own")
            }
        }
    }

    /// Does the same with each of the entries, and says how many there were.
    async fn each(&self, chosen: &Chosen, done: &str, wish: fn(Arc<str>) -> Ask) -> anyhow::Result<()> {
        let mut ids: Vec<Arc<str>> = chosen.ids.iter().map(|id| id.as_str().into()).collect();
        if let Some(state) = chosen.state {
            let listed = self.ask(Ask::List(Some(state), MOST)).await?;
            let entries = listed["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
            ids.extend(entries.iter().filter_map(|entry| entry["id"].as_str()).map(Into::into));
        }
        let (mut count, mut failed) = (0, String::new());
        for id in ids {
            match self.ask(wish(Arc::clone(&id))).await {
                Ok(_) => count += 1,
                Err(error) => writeln!(failed, "{id}: {error:#}")?,
            }
        }
        super::print(&format!("{count} {done}\n"))?;
        if failed.is_empty() { Ok(()) } else { Err(anyhow!(failed.trim_end().to_owned())) }
    }
}

async fn over_http(authority: &str, token: Option<&str>, ask: &Ask) -> anyhow::Result<Value> {
    let (method, path) = match ask {
        Ask::List(None, most) => (Method::GET, format!("?limit={most}")),
        Ask::List(Some(state), most) => (Method::GET, format!("?limit={most}&state={}", state.name())),
        Ask::Show(id) => (Method::GET, format!("/{id}")),
        Ask::Replay(id) => (Method::POST, format!("/{id}/replay")),
        Ask::Forget(id) => (Method::DELETE, format!("/{id}")),
    };
    let gateway = Gateway { authority, token };
    let (status, body) = gateway.ask(method, &format!("/admin/v1/spool{path}"), Bytes::new()).await?;
    let told: Value = serde_json::from_slice(&body).with_context(|| format!("answered {status}, without JSON"))?;
    if status == StatusCode::OK { Ok(told) } else { bail!("{}", told["error"].as_str().unwrap_or(status.as_str())) }
}

const COLUMNS: [&str; 6] = ["id", "state", "why", "model", "attempts", "received"];

/// A listing for people.
fn table(listed: &Value) -> String {
    let entries = listed["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let cell = |entry: &Value, column: &str| match &entry[column] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut rows = vec![COLUMNS.map(str::to_uppercase)];
    rows.extend(entries.iter().map(|entry| COLUMNS.map(|column| cell(entry, column))));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        let note = number.checked_sub(1).map(|entry| {
            let entry = &entries[entry];
            ["due", "by", "reason"].into_iter().map(|word| cell(entry, word)).find(|word| !word.is_empty())
        });
        let note = note.map_or_else(|| "DUE, BY OR REASON".to_owned(), Option::unwrap_or_default);
        text.push_str(&note);
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let depth: Vec<_> =
        Standing::ALL.iter().map(|state| format!("{} {}", listed["depth"][state.name()], state.name())).collect();
    let store = listed["store"].as_str().unwrap_or("?");
    let _ = writeln!(text, "{}; at most {} are kept, in {store}", depth.join(", "), listed["max_entries"]);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_listing_is_a_table_and_a_line_of_counts() {
        let listed = json!({
            "store": "redis", "max_entries": 9, "depth": {"waiting": 1, "running": 0, "done": 0, "parked": 1},
            "entries": [
                {"id": "a1", "state": "waiting", "why": "queued", "model": "fraud", "attempts": 0, "received": "r", "due": "d"},
                {"id": "b2", "state": "parked", "why": "logged", "model": "m", "attempts": 6, "received": "r", "reason": "no luck"},
            ],
        });
        assert_eq!(
            table(&listed),
            "ID  STATE    WHY     MODEL  ATTEMPTS  RECEIVED  DUE, BY OR REASON\n\
             a1  waiting  queued  fraud  0         r         d\n\
             b2  parked   logged  m      6         r         no luck\n\
             1 waiting, 0 running, 0 done, 1 parked; at most 9 are kept, in redis\n"
        );
    }
}
