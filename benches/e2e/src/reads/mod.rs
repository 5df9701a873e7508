//! The feature servers' part: Feast's own server, Weir and raw HMGETs read the same rows from the same Redis, in turns.
//!
//! Every setup is checked before and after (check.rs); one that fails is out and says why. Within a round the setups take turns
//! at one size after the other, so that a comparison is of runs seconds apart. At the end Weir's L1 is filled, for its memory.

mod check;
mod data;
mod full;
mod report;
mod servers;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use self::{
    check::Source,
    data::{NARROW, SIZES, WIDE},
    full::Full,
    servers::{L1, Repository},
};
use crate::{
    Flags, Folder, Only, cpu,
    load::{Load, Protocol},
    pace::Pace,
    peers::{self, Place, Server, Weir},
    rounds::{self, Phase},
};

/// The flags that this part has beside those that all have.
pub(crate) const FLAGS: &[&str] = &["--feast", "--redis", "--weir", "--before", "--only", "--sizes"];

/// Connections of the larger closed loop.
const MANY: usize = 8;

/// One thing to measure.
struct Setup {
    name: &'static str,
    reader: Reader,
    /// Why it is out.
    failure: Option<String>,
    /// A size each, in their order.
    seen: [Seen; SIZES.len()],
    /// MiB after the last run.
    resident: f64,
}

/// What reads the rows.
enum Reader {
    /// The load itself, from Redis.
    Floor,
    Feast(Server),
    Weir(Weir, L1),
    /// It did not start.
    Missing,
}

/// What one size's runs gave, a round each.
#[derive(Default)]
struct Seen {
    /// One connection.
    one: Vec<Phase>,
    /// [`MANY`] connections.
    many: Vec<Phase>,
}

/// One size's requests, for everybody.
struct Requests {
    http: Vec<Vec<u8>>,
    pipelines: Vec<Vec<u8>>,
}

impl Setup {
    fn begun(name: &'static str, reader: Result<Reader>) -> Self {
        let mut setup = Self { name, reader: Reader::Missing, failure: None, seen: Default::default(), resident: 0.0 };
        match reader {
            Ok(reader) => setup.reader = reader,
            Err(error) => setup.fail(&error),
        }
        setup
    }

    /// Keeps why it is out; the first reason stays.
    fn fail(&mut self, error: &anyhow::Error) {
        if self.failure.is_none() {
            eprintln!("{}: {error:#}", self.name);
            self.failure = Some(format!("{error:#}"));
        }
    }

    fn works(&self) -> bool {
        self.failure.is_none()
    }

    fn server(&self) -> Option<&Server> {
        match &self.reader {
            Reader::Feast(server) | Reader::Weir(Weir { server, .. }, _) => Some(server),
            Reader::Floor | Reader::Missing => None,
        }
    }

    /// Reads every row; `filled`: L1 must have them by now.
    fn check(&mut self, redis: SocketAddr, filled: bool) {
        let views = [&NARROW, &WIDE];
        let checked = match &self.reader {
            Reader::Missing => return,
            Reader::Floor => check::stored(redis, &views),
            Reader::Feast(server) => check::served(server.address, &views, Source::Unsaid),
            Reader::Weir(weir, l1) => {
                let source = match l1 {
                    L1::Off => Source::Redis,
                    L1::On if filled => Source::L1,
                    L1::On => Source::L1Filling,
                };
                check::served(weir.server.address, &views, source)
            }
        };
        if let Err(error) = checked {
            self.fail(&error);
        }
    }

    /// One run at one size.
    fn run(&self, redis: &Server, size: usize, requests: &Requests, run: (usize, Duration)) -> Result<Phase> {
        let (connections, length) = run;
        let Some(server) = self.server() else {
            let protocol = Protocol::Redis(SIZES[size].entities);
            let load = Load::connect(protocol, redis.address, connections, &requests.pipelines)?;
            let phase = rounds::measure(redis, redis, load, (Pace::Closed, length))?;
            // It is the load that does here what a server does elsewhere.
            return Ok(Phase { cpu: phase.load_cpu, ..phase });
        };
        let load = Load::connect(Protocol::Http, server.address, connections, &requests.http)?;
        rounds::measure(server, redis, load, (Pace::Closed, length))
    }
}

/// Measures, prints the report, and writes it where the flags say.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let python = flags.programs.feast.as_deref().context("reads needs --feast: it is Feast that writes the rows")?;
    let program = flags.programs.redis.as_deref().context("reads needs --redis")?;
    let folder = Folder::make()?;
    let place = Place(&folder.0);
    let redis = peers::redis(place, program)?;
    let repository = Repository::make(place, python, redis.address, &[&NARROW, &WIDE])?;
    let mut setups = start(place, flags, &repository, redis.address, python);
    for setup in &mut setups {
        setup.check(redis.address, false);
    }
    // Once more where L1 has just been filled.
    for setup in setups.iter_mut().filter(|setup| matches!(setup.reader, Reader::Weir(_, L1::On))) {
        setup.check(redis.address, true);
    }
    let before = cpu::Machine::now(&processes(&setups, &redis))?;
    take_turns(&mut setups, &redis, flags);
    let others = before.others(cpu::Machine::now(&processes(&setups, &redis))?);
    for setup in &mut setups {
        setup.check(redis.address, true);
    }
    let full = fill(&mut setups, redis.address);

    let report = report::markdown(&setups, &report::Circumstances { flags, others, full });
    println!("{report}");
    let failed: Vec<&str> = setups.iter().filter(|setup| !setup.works()).map(|setup| setup.name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    flags.write.as_ref().map_or(Ok(()), |document| crate::report::splice(document, "reads", &report))
}

fn start(place: Place<'_>, flags: &Flags, repository: &Repository, redis: SocketAddr, python: &Path) -> Vec<Setup> {
    let mut setups = Vec::new();
    let mut begin = |name: &'static str, reader: &dyn Fn() -> Result<Reader>| {
        if Only::has(&flags.only.setups, name) {
            setups.push(Setup::begun(name, reader()));
        }
    };
    begin(report::FLOOR, &|| Ok(Reader::Floor));
    begin(report::FEAST_1, &|| repository.serve(place, python, 1).map(Reader::Feast));
    begin(report::FEAST_4, &|| repository.serve(place, python, 4).map(Reader::Feast));
    for (program, from_redis, from_l1) in [
        (&flags.programs.before, report::BEFORE_REDIS, report::BEFORE_L1),
        (&flags.programs.weir, report::WEIR_REDIS, report::WEIR_L1),
    ] {
        let Some(program) = program else { continue };
        for (name, l1) in [(from_redis, L1::Off), (from_l1, L1::On)] {
            let weir = || servers::weir(place, (name, program), repository, redis, l1);
            begin(name, &|| weir().map(|weir| Reader::Weir(weir, l1)));
        }
    }
    setups
}

fn take_turns(setups: &mut [Setup], redis: &Server, flags: &Flags) {
    let requests = SIZES.map(|size| Requests { http: size.http(), pipelines: size.pipelines() });
    for round in 0..flags.rounds {
        let wanted = |(size, _): &(usize, _)| Only::has(&flags.only.sizes, &SIZES[*size].name());
        for (size, requests) in requests.iter().enumerate().filter(wanted) {
            eprintln!("{} (entities × features), {MANY} connections", SIZES[size].name());
            for setup in rounds::in_turn(setups, round).into_iter().filter(|setup| setup.works()) {
                let one = setup.run(redis, size, requests, (1, flags.longest / 2));
                let many = one.and_then(|one| Ok((one, setup.run(redis, size, requests, (MANY, flags.longest))?)));
                match many {
                    Ok((one, many)) => {
                        rounds::note(round, setup.name, many);
                        setup.seen[size].one.push(one);
                        setup.seen[size].many.push(many);
                    }
                    Err(error) => setup.fail(&error),
                }
            }
        }
    }
    for setup in setups.iter_mut().filter(|setup| setup.works()) {
        match setup.server().map_or(Ok(0.0), |server| cpu::resident(server.process.id())) {
            Ok(resident) => setup.resident = resident,
            Err(error) => setup.fail(&error),
        }
    }
}

/// The last thing that is done: it drives out of L1 what was measured.
fn fill(setups: &mut [Setup], redis: SocketAddr) -> Option<Full> {
    let setup = setups.iter_mut().find(|setup| setup.works() && setup.name == report::WEIR_L1)?;
    let Reader::Weir(weir, _) = &setup.reader else { return None };
    match full::fill(weir, redis, &NARROW) {
        Ok(full) => Some(full),
        Err(error) => {
            setup.fail(&error);
            None
        }
    }
}

/// Every process that the bench runs.
fn processes(setups: &[Setup], redis: &Server) -> Vec<u32> {
    let servers = setups.iter().filter_map(Setup::server);
    servers.map(|server| server.process.id()).chain([redis.process.id(), std::process::id()]).collect()
}
