//! Child processes that cannot outlive the test binary, and waiting for conditions.
//!
//! Each child leads a process group. One reaper, a shell reading a pipe that only this process holds, is told every group
//! and temporary folder; when the pipe closes, because the tests ended or were killed, it kills the groups and removes the
//! folders. A [`Spawned`] that is dropped earlier kills its group itself. No time is slept through: [`wait_until`] polls.

use std::{
    collections::HashSet,
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// How long a server may take to become ready on a busy machine.
pub(crate) const START: Duration = Duration::from_secs(120);

/// The shell that ends what we leave behind; never waited for, since it ends after us.
struct Reaper(Mutex<Child>);

static REAPER: LazyLock<Reaper> = LazyLock::new(|| {
    let script = r#"
        groups="" folders=""
        while read -r word value; do
            case "$word" in
                group) groups="$groups $value" ;;
                gone) groups=$(for g in $groups; do [ "$g" = "$value" ] || printf '%s ' "$g"; done) ;;
                folder) folders="$folders $value" ;;
            esac
        done
        for g in $groups; do kill -KILL "-$g" 2>/dev/null; done
        # A process that is still dying may write once more.
        for f in $folders; do
            for try in 1 2 3 4 5 6 7 8 9; do rm -rf "$f" 2>/dev/null && break; sleep 0.2; done
        done"#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Reaper(Mutex::new(command.process_group(0).spawn().expect("/bin/sh is there")))
});

fn tell_reaper(line: &str) {
    let mut reaper = REAPER.0.lock().expect("no holder panics");
    writeln!(reaper.stdin.as_mut().expect("stdin was piped"), "{line}").expect("the reaper reads until we end");
}

/// A child process, its group and its log.
pub(crate) struct Spawned {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Spawned {
    /// Starts `command` with standard output and error going to `NAME.log` in `folder`.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).expect("the folder is writable");
        let err = out.try_clone().expect("a file can be duplicated");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        tell_reaper(&format!("group {}", child.id()));
        Self { name: name.into(), child, log, status: None }
    }

    /// The process's id, which is its group's too.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends `signal` (`TERM`, `KILL`, `STOP`…) to the process alone.
    pub(crate) fn signal(&self, signal: &str) {
        assert!(kill(signal, &self.id().to_string()), "{} is gone already:\n{}", self.name, self.log());
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("it is our child");
        }
        self.status
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        await_some(&format!("{name} to end"), limit, || self.ended())
    }

    /// Waits until `ready` says something; fails at once if the process ends before.
    pub(crate) fn ready<T>(&mut self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}) before {what}:\n{}", self.name, tail(&self.log()));
            }
            assert!(start.elapsed() < START, "{}: waited in vain for {what}:\n{}", self.name, tail(&self.log()));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        kill("KILL", &format!("-{}", self.id()));
        let _ = self.child.wait();
        tell_reaper(&format!("gone {}", self.id()));
    }
}

fn kill(signal: &str, target: &str) -> bool {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -s \"$0\" -- \"$1\"", signal, target]).stderr(Stdio::null());
    command.status().expect("/bin/sh is there").success()
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A folder that is removed on drop, and when the test binary ends.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// A new one.
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("weir-{name}-")).tempdir().expect("a writable /tmp");
        tell_reaper(&format!("folder {}", folder.path().display()));
        Self(folder)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into it, with the folders on the way; returns its path.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("the folder is writable");
        std::fs::write(&path, contents).expect("the folder is writable");
        path
    }
}

/// A port on loopback that nobody listens on, nor on the port 10000 above it (which Redis Cluster and SeaweedFS open too).
///
/// Out of the range from which the kernel takes ports for outgoing connections, and never the same one twice.
pub(crate) fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = rand::random_range(11_000..22_000);
        if free(port) && free(port + 10_000) && GIVEN.lock().expect("no holder panics").insert(port) {
            return port;
        }
    }
}

/// Whether something accepts connections there.
pub(crate) fn listening(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Loopback at a port.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Polls until `condition` gives something.
pub(crate) fn await_some<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Polls until `condition` holds.
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    await_some(what, limit, || condition().then_some(()));
}
