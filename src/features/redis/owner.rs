//! Who has a key: for whoever needs a connection of its own to that server, one that hears what it is told.

use std::sync::Arc;

use ::redis::{Client, ProtocolVersion};

use super::{Redis, Servers, of_worker, slots::Slot};
use crate::{features::l2::Error, infer::WorkerId};

/// The servers of a store, to be asked for the one that has a key.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    servers: Arc<Servers>,
    control: WorkerId,
}

impl Redis {
    /// For connections beside those that carry requests.
    pub(crate) fn owner(&self) -> Owner {
        Owner { servers: Arc::clone(&self.servers), control: self.control }
    }
}

impl Owner {
    /// Whether keys of several slots are on several servers.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(&*self.servers, Servers::Cluster(cluster) if cluster.has_shards())
    }

    /// A client of the key's master, as far as known, that speaks RESP3.
    ///
    /// # Errors
    ///
    /// Nobody could say so far who that is.
    pub(crate) async fn client(&self, key: &[u8]) -> Result<Client, Error> {
        let client = match &*self.servers {
            Servers::Single(nodes) => of_worker(nodes, self.control).client(),
            Servers::Cluster(cluster) => cluster.client(self.control, Slot::of(key)).await?,
        };
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Client::open(info.set_redis_settings(settings)).expect("nothing is parsed"))
    }

    /// Has it found out who has what, in the background: the one that was named does not answer, or is not the one.
    pub(crate) fn learn(&self) {
        if let Servers::Cluster(cluster) = &*self.servers {
            cluster.learn(self.control);
        }
    }
}
