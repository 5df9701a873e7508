//! Weir end to end: beside nginx, Envoy and a bare hyper proxy on one backend; beside Feast's server on one Redis; beside
//! Envoy while endpoints are slow, die and come back; its prediction cache beside a bare hyper server; what its ladder
//! answers when everything fails; and several Weirs on one Redis Cluster that agree on what they keep.
//!
//! `weir-e2e run` (the proxies), `weir-e2e reads` (the feature servers), `weir-e2e predictions`, `weir-e2e faults`,
//! `weir-e2e ladder` and `weir-e2e consistency` start everything on loopback, check
//! that every setup answers alike, measure them in turns and print a Markdown report; `backend`, `endpoint` and `bare` are the
//! processes that it starts of itself. How to read the numbers is in docs/benchmarks.md. It judges no change: a target missed is reported, a setup that does not work fails the run.

mod backend;
mod bare;
mod caller;
mod cluster;
mod consistency;
mod cpu;
mod faults;
mod feast;
mod load;
mod pace;
mod part;
mod peers;
mod predictions;
mod process;
mod reads;
mod report;
mod resp;
mod rounds;
mod verify;

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    peers::{Place, Programs, Server, Site},
    report::Circumstances,
    rounds::{Schedule, Setup, median},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: weir-e2e run [--nginx PROGRAM] [--envoy PROGRAM] [--redis PROGRAM] [--weir PROGRAM]
                    [--rounds N] [--seconds S] [--write DOCUMENT]
       weir-e2e reads --feast PYTHON --redis PROGRAM [--weir PROGRAM]
                    [--rounds N] [--seconds S] [--write DOCUMENT]
                    [--before PROGRAM] [--only SETUPS] [--sizes SIZES]
       weir-e2e predictions --weir PROGRAM [--rounds N] [--seconds S] [--write DOCUMENT]
       weir-e2e faults --weir PROGRAM [--envoy PROGRAM] [--redis PROGRAM]
                    [--rounds N] [--seconds S] [--write DOCUMENT] [--only PARTS]
       weir-e2e ladder --weir PROGRAM --redis PROGRAM
                    [--rounds N] [--seconds S] [--write DOCUMENT] [--only PARTS]
       weir-e2e consistency --weir PROGRAM --redis PROGRAM
                    [--rounds N] [--seconds S] [--write DOCUMENT] [--only PARTS]
       weir-e2e backend ADDRESS
       weir-e2e endpoint ADDRESS BEHAVIOUR ARRIVALS
       weir-e2e bare ADDRESS UPSTREAM

The programs that are named are measured; S is the length of the longest of a setup's runs a round.
--before measures another build of Weir beside this one. SETUPS and SIZES are parts of names with commas between them
(\"L1\", \"10 × 10,50 × 200\"): the others are left out. So are PARTS of the faults (\"crash,churn\"), of the ladder (\"outage,recovery,cost\") and of the
consistency (\"hot keys,invalidation,write-through\").";

/// The flags of the ladder's and the consistency's part, beside those that all have.
const PART_FLAGS: &[&str] = &["--redis", "--weir", "--only"];

/// The open loop's rate, as a share of what the slowest proxy reaches in the closed loop.
const OPEN_SHARE: f64 = 0.6;

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["backend", address] => on_one_thread(backend::serve(address.parse()?)),
        ["bare", address, upstream] => on_one_thread(bare::serve(address.parse()?, upstream.parse()?)),
        ["endpoint", address, behaviour, arrivals] => {
            on_one_thread(faults::endpoint::serve(address.parse()?, behaviour, Path::new(arrivals)))
        }
        ["run", flags @ ..] => run(&Flags::parse(flags, &["--nginx", "--envoy", "--redis", "--weir"], (6, 3.0))?),
        ["reads", flags @ ..] => reads::run(&Flags::parse(flags, reads::FLAGS, (4, 1.5))?),
        ["predictions", flags @ ..] => predictions::run(&Flags::parse(flags, predictions::FLAGS, (6, 3.0))?),
        ["faults", flags @ ..] => faults::run(&Flags::parse(flags, faults::FLAGS, (2, 4.0))?),
        ["ladder", flags @ ..] => part::run::<faults::ladder::Results>(&Flags::parse(flags, PART_FLAGS, (8, 6.0))?),
        ["consistency", flags @ ..] => part::run::<consistency::Results>(&Flags::parse(flags, PART_FLAGS, (4, 3.0))?),
        _ => bail!("{USAGE}"),
    }
}

fn on_one_thread(serve: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve)
}

struct Flags {
    programs: Programs,
    rounds: usize,
    /// The longest run.
    longest: Duration,
    write: Option<PathBuf>,
    /// What alone is measured, by parts of names.
    only: Only,
}

/// Empty: everything.
#[derive(Default)]
struct Only {
    setups: Vec<String>,
    sizes: Vec<String>,
}

impl Only {
    fn names(list: &str) -> Vec<String> {
        list.split(',').map(String::from).collect()
    }

    fn has(parts: &[String], name: &str) -> bool {
        parts.is_empty() || parts.iter().any(|part| name.contains(part))
    }
}

impl Flags {
    /// `named` are the programs' flags that the part has; `defaults` its rounds and the seconds of its longest run.
    fn parse(flags: &[&str], named: &[&str], defaults: (usize, f64)) -> Result<Self> {
        let mut programs = Programs::default();
        let (mut rounds, mut seconds) = defaults;
        let (mut write, mut only) = (None, Only::default());
        let mut pairs = flags.chunks_exact(2);
        for pair in &mut pairs {
            let (flag, value) = (pair[0], pair[1]);
            match flag {
                "--rounds" => rounds = value.parse().context("--rounds")?,
                "--seconds" => seconds = value.parse().context("--seconds")?,
                "--write" => write = Some(value.into()),
                _ if !named.contains(&flag) => bail!("unknown flag {flag}\n{USAGE}"),
                "--feast" => programs.feast = Some(value.into()),
                "--nginx" => programs.nginx = Some(value.into()),
                "--envoy" => programs.envoy = Some(value.into()),
                "--redis" => programs.redis = Some(value.into()),
                "--before" => programs.before = Some(value.into()),
                "--only" => only.setups = Only::names(value),
                "--sizes" => only.sizes = Only::names(value),
                _ => programs.weir = Some(value.into()),
            }
        }
        ensure!(pairs.remainder().is_empty() && rounds > 0 && seconds > 0.0, "{USAGE}");
        Ok(Self { programs, rounds, longest: Duration::from_secs_f64(seconds), write, only })
    }

    fn schedule(&self) -> Schedule {
        let many = self.longest;
        Schedule { rounds: self.rounds, one: many / 2, many, open: many * 5 / 6 }
    }
}

fn run(flags: &Flags) -> Result<()> {
    // Sends are timed: the default slack of 50 µs would be most of an open loop's waits.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let folder = Folder::make()?;
    let place = Place(&folder.0);
    let backend = peers::backend(place)?;
    let site = Site { place, backend: backend.address };
    let (mut setups, _redis) = start(site, &flags.programs)?;
    let schedule = flags.schedule();

    let before = cpu::Machine::now(&processes(&setups, &backend))?;
    rounds::closed(&mut setups, &backend, schedule);
    let slowest = setups.iter().filter(|setup| setup.works() && setup.server.is_some());
    let slowest = slowest.map(|setup| median(setup.many.iter().map(|phase| phase.rate))).fold(f64::INFINITY, f64::min);
    let rate = slowest * OPEN_SHARE;
    rounds::open(&mut setups, &backend, schedule, rate);
    let others = before.others(cpu::Machine::now(&processes(&setups, &backend))?);

    check(&mut setups, backend.address);
    let about = Circumstances { programs: &flags.programs, schedule, rate, others };
    let report = report::markdown(&setups, &about);
    println!("{report}");
    let failed: Vec<&str> = setups.iter().filter(|setup| !setup.works()).map(|setup| setup.name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    flags.write.as_ref().map_or(Ok(()), |document| report::splice(document, "bench", &report))
}

/// Starts every setup and checks it once. One that does not start or answer is kept, with the reason.
fn start(site: Site<'_>, programs: &Programs) -> Result<(Vec<Setup>, Option<Server>)> {
    let plain = || vec![verify::inference(&verify::plain_body())];
    let mut setups = vec![Setup::new(report::DIRECT, None, plain()), begun(report::BARE, peers::bare(site), plain())];
    if let Some(nginx) = &programs.nginx {
        setups.push(begun(report::NGINX, peers::nginx(site, nginx), plain()));
    }
    if let Some(envoy) = &programs.envoy {
        setups.push(begun(report::ENVOY, peers::envoy(site, envoy), plain()));
    }
    if let Some(weir) = &programs.weir {
        setups.push(begun(report::WEIR, peers::weir(site, weir), plain()));
    }
    let mut store = None;
    if let (Some(weir), Some(redis)) = (&programs.weir, &programs.redis) {
        let redis = store.insert(peers::redis(site.place, redis)?);
        feast::load(redis.address, &users())?;
        let joined = users().into_iter().map(|user| verify::inference(&verify::joined_body(user))).collect();
        let mut setup = begun(report::JOINED, peers::weir_joined(site, weir, redis.address), joined);
        if let Some(Err(error)) =
            setup.server.as_ref().map(|it| verify::joins(it.address, site.backend, &users(), false))
        {
            setup.fail(&error);
        }
        setups.push(setup);
    }
    check(&mut setups, site.backend);
    Ok((setups, store))
}

/// The entities of the joined setup.
fn users() -> Vec<i64> {
    (1001..1101).collect()
}

fn begun(name: &'static str, server: Result<Server>, requests: Vec<Vec<u8>>) -> Setup {
    match server {
        Ok(server) => Setup::new(name, Some(server), requests),
        Err(error) => {
            let mut setup = Setup::new(name, None, requests);
            setup.fail(&error);
            setup
        }
    }
}

/// Every setup must do what it is measured for; L1 must have every row by now.
fn check(setups: &mut [Setup], backend: std::net::SocketAddr) {
    for setup in setups.iter_mut().filter(|setup| setup.works()) {
        let address = setup.server.as_ref().map_or(backend, |server| server.address);
        let checked = match setup.name {
            report::JOINED => verify::joins(address, backend, &users(), true),
            _ => verify::passes_through(address, backend),
        };
        if let Err(error) = checked {
            eprintln!("{}: {error:#}", setup.name);
            setup.fail(&error);
        }
    }
}

/// Every process that the bench runs.
fn processes(setups: &[Setup], backend: &Server) -> Vec<u32> {
    let servers = setups.iter().filter_map(|setup| setup.server.as_ref());
    servers.map(|server| server.process.id()).chain([backend.process.id(), std::process::id()]).collect()
}

/// The run's files; gone with it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("weir-e2e-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_its_own_programs_and_no_others() {
        let flags = ["--feast", "python", "--rounds", "2", "--write", "a.md"];
        let parsed = Flags::parse(&flags, &["--feast"], (4, 1.5)).expect("they are flags");
        assert_eq!((parsed.rounds, parsed.longest), (2, Duration::from_millis(1500)));
        assert_eq!(parsed.programs.feast, Some("python".into()));
        assert_eq!(parsed.write, Some("a.md".into()));
        let parsed = Flags::parse(&["--only", "L1,raw"], reads::FLAGS, (4, 1.5)).expect("they are flags").only;
        assert!(Only::has(&parsed.setups, "from L1") && !Only::has(&parsed.setups, "from Redis"));
        assert!(Only::has(&parsed.sizes, "1 × 10"));
        for wrong in [&flags[..], &["--nginx"], &["--rounds", "0"], &["--seconds", "x"]] {
            assert!(Flags::parse(wrong, &["--nginx"], (4, 1.5)).is_err(), "{wrong:?}");
        }
    }
}
