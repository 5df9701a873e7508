//! What operators see of leases: this gateway's, and who else holds one by the table in Redis.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Keeps, Leases, bus::Bus, table};

/// How long the table's server may take to tell.
const PATIENCE: Duration = Duration::from_secs(1);

/// This gateway's part.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// What it is called in Redis; `None`: it shares its rows with nobody.
    pub(crate) gateway: Option<String>,
    /// Whether it hears the others.
    pub(crate) connected: bool,
    pub(crate) keeps: Keeps,
    /// How much of its lease is left; `None`: it holds none.
    pub(crate) left: Option<Duration>,
    pub(crate) rows_held: usize,
}

/// The table of leases, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Holders {
    /// The hash in Redis.
    pub(crate) key: String,
    pub(crate) listed: Result<Listed, String>,
}

/// Who holds a lease.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// For how long somebody may hold a lease yet whom the table lacks, because it began anew: a push waits for that. Zero: nobody does.
    pub(crate) lacks: Duration,
    pub(crate) holders: Vec<Holder>,
}

/// One gateway's lease.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) gateway: String,
    pub(crate) left: Duration,
    /// Whether it may not be renewed, because it did not answer a push.
    pub(crate) revoked: bool,
}

impl Leases {
    /// What of it is worth seeing.
    pub(crate) fn shown(&self) -> Shown {
        let now = Instant::now();
        let is_under_one = self.keeps == Keeps::UnderLease && self.lease.term(now).is_some();
        Shown {
            gateway: self.bus.as_ref().map(|bus| table::name(bus.gateway())),
            connected: self.bus.as_ref().is_some_and(Bus::is_connected),
            keeps: self.keeps,
            left: is_under_one.then(|| self.lease.left(now)),
            rows_held: self.fences.count(now),
        }
    }

    /// Asks the table who holds a lease; `None`: there is none to be asked.
    pub(crate) async fn holders(&self) -> Option<Holders> {
        let bus = self.bus.as_ref()?;
        let listed = match bus.server() {
            None => Err("not connected".to_owned()),
            Some(mut server) => match timeout(PATIENCE, bus.table.list(&mut server, bus.length)).await {
                Ok(listed) => listed.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            },
        };
        let listed = listed.map(|listed| {
            let holder = |(gateway, left, revoked)| Holder { gateway: table::name(gateway), left, revoked };
            let table::Listed { lacks, holders, .. } = listed;
            Listed { lacks, holders: holders.into_iter().map(holder).collect() }
        });
        Some(Holders { key: bus.table.key().to_owned(), listed })
    }
}
