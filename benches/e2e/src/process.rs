//! Processes under measurement: started on free loopback ports, waited for, and never outliving the bench.
//!
//! Each is started through `setpriv --pdeathsig`, so that it ends with the bench even when that is killed, and is asked to
//! end (SIGTERM, then SIGKILL) when its [`Process`] is dropped. Its output goes to a file of the run's folder.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running process.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `program`, its output in `log`. Call it from the main thread: the process ends with the thread that started it.
    pub(crate) fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let out = File::create(log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would: SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it from doing anything, while its sockets stay open; or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("it has an id")?;
        kill_process(pid, signal).context("cannot be signalled")
    }

    /// Waits until something listens at `address`.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        bail!("nothing listens on {address}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It may have ended by itself just now: then there is nobody to tell.
        let _ = self.signal(Signal::TERM);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that is free now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A loopback address that is free now, and that no connection is given as its own end: what ended there can begin again.
///
/// The system takes those ends from 32768 on. The port ten thousand higher, a Redis Cluster's bus, is none of them either.
pub(crate) fn steady_address() -> Result<SocketAddr> {
    const PORTS: u16 = 2700;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two benches at the same time begin at different ones.
    let first = (std::process::id() % u32::from(PORTS)) as u16;
    (0..PORTS)
        .map(|_| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no port from 20000 on is free")
}
