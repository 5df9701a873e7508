//! What a process has used, from `/proc`: processor time of all its threads and children, and resident memory.
//!
//! Times come from `utime + stime` of `/proc/PID/stat`, in ticks of 10 ms, so a window should be seconds long.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// One tick of `/proc/PID/stat`: Linux reports them at 100 Hz on every platform Weir runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time used by `root` and its living descendants.
pub(crate) fn used(root: u32) -> Result<Duration> {
    family(root).into_iter().map(ticks).sum::<Result<u32>>().map(|ticks| TICK * ticks)
}

/// Processor time used by this process, without the ones that it started.
pub(crate) fn used_here() -> Result<Duration> {
    Ok(TICK * ticks(std::process::id())?)
}

/// Processor time that the living threads of a process used, to the nanosecond: for windows that are too short, or too idle, for ticks.
pub(crate) fn used_by_threads(pid: u32) -> Result<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    let used = |stat: &str| stat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos);
    // A thread may end meanwhile.
    let stats = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    Ok(stats.filter_map(|stat| used(&stat)).sum())
}

/// Resident memory of `root` and its living descendants, in MiB.
pub(crate) fn resident(root: u32) -> Result<f64> {
    family(root).into_iter().map(resident_alone).sum()
}

/// The processes whose ancestor `root` is, itself first. nginx works in a child of the process that was started.
fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    found
}

fn ticks(pid: u32) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    parse(&stat, 2).with_context(|| format!("cannot read /proc/{pid}/stat"))
}

/// The sum of `count` fields from 14 on: its own times, then those of children that it waited for. The name in field 2 may hold
/// spaces, so they are counted from its closing parenthesis.
fn parse(stat: &str, count: usize) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields = rest.split_ascii_whitespace().skip(11).take(count);
    fields.map(|field| field.parse::<u32>().ok()).sum()
}

fn resident_alone(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// The machine's processor time at a moment, in ticks: how much was the bench's, how much was anybody's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    own: f64,
    busy: f64,
    total: f64,
}

impl Machine {
    /// Now, where `own` are the bench's processes; one of its own that has children counts them once.
    pub(crate) fn now(own: &[u32]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        // user nice system idle iowait irq softirq steal; what guests use is in user already.
        let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        let total: f64 = ticks.iter().sum();
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        let mut processes: Vec<u32> = own.iter().flat_map(|&pid| family(pid)).collect();
        processes.sort_unstable();
        processes.dedup();
        let own = processes.into_iter().map(self::ticks).filter_map(Result::ok).map(f64::from).sum();
        Ok(Self { own, busy: total - idle, total })
    }

    /// Now, where the bench's processes are this one and all that it started and waited for; none of them runs.
    pub(crate) fn at_rest() -> Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let own = parse(&stat, 4).context("cannot read /proc/self/stat")?;
        Ok(Self { own: f64::from(own), ..Self::now(&[])? })
    }

    /// The share of the machine that others (and a hypervisor) took between this moment and a later one.
    pub(crate) fn others(self, later: Self) -> f64 {
        let others = (later.busy - self.busy) - (later.own - self.own);
        (others / (later.total - self.total)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_after_the_name() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 9 0 0 0 34 8 5 1 20 0 1 0 5 1 2";
        assert_eq!((parse(stat, 2), parse(stat, 4)), (Some(42), Some(48)));
    }

    #[test]
    fn this_process_has_memory_and_time() {
        assert!(resident(std::process::id()).unwrap() > 0.1);
        used(std::process::id()).unwrap();
        assert!(used_by_threads(std::process::id()).unwrap() > Duration::ZERO);
    }
}
