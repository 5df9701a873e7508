//! The process that reads, as the gateway holds it: started, ended, and never left behind.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use super::{COMMAND, wire::Order};

/// The process that is there now, if one is.
#[derive(Clone, Default)]
pub(super) struct Process(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    child: Option<Child>,
    /// There shall be none any more.
    is_closed: bool,
}

impl Process {
    /// Starts one; what it says. `None`: there shall be none any more.
    pub(super) fn start(&self, order: &Order) -> io::Result<Option<ChildStdout>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_closed {
            return Ok(None);
        }
        let mut command = Command::new(program()?);
        // What a terminal sends to the gateway is for the gateway, which ends its reader once it has drained: a group of its own.
        command.arg0("weir").arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let child = slot.child.insert(command.spawn()?);
        // An order that it does not take is told by its end.
        let _ = child.stdin.as_mut().map(|stdin| order.write(stdin));
        Ok(child.stdout.take())
    }

    /// Ends the one that there is; why it ended, if it had by itself.
    pub(super) fn end(&self) -> String {
        let child = self.0.lock().unwrap_or_else(PoisonError::into_inner).child.take();
        let Some(mut child) = child else { return "it was not started".to_owned() };
        let ended = child.kill().and_then(|()| child.wait());
        ended.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Whether there shall be none any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_closed
    }

    /// Ends it; and there shall be none any more. Whoever hears it sees to the rest.
    pub(super) fn close(&self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.is_closed = true;
        if let Some(child) = &mut slot.child {
            let _ = child.kill();
        }
    }
}

/// This program, also after its file was replaced by another version.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}
