//! Members that are not in their ensemble's answer, by why.

use metrics::{Counter, counter};

use crate::{infer::Cause, telemetry::names};

/// Why a member is not in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It was late.
    Timeout,
    /// It failed, or answered with an error.
    Failed,
    /// Its answer could not be read.
    Unreadable,
    /// It has other outputs than the others.
    Differs,
    /// Nobody could be asked.
    Unavailable,
    /// Its tier or its pool took no more.
    Shed,
    /// It makes room on its pool's GPUs.
    GpuMemory,
    /// A drill.
    Drill,
}

impl LeftOut {
    const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Failed,
        Self::Unreadable,
        Self::Differs,
        Self::Unavailable,
        Self::Shed,
        Self::GpuMemory,
        Self::Drill,
    ];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Differs => "differs",
            _ => self.cause().token(),
        }
    }

    /// What the caller is told.
    #[must_use]
    pub const fn cause(self) -> Cause {
        match self {
            Self::Timeout => Cause::Timeout,
            Self::Failed | Self::Unreadable | Self::Differs => Cause::Failed,
            Self::Unavailable => Cause::Unavailable,
            Self::Shed => Cause::Shed,
            Self::GpuMemory => Cause::GpuMemory,
            Self::Drill => Cause::Drill,
        }
    }
}

impl From<Cause> for LeftOut {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Timeout | Cause::Timeouts => Self::Timeout,
            Cause::Failed => Self::Failed,
            Cause::Unavailable | Cause::FeaturesSlow | Cause::FeaturesUnavailable => Self::Unavailable,
            Cause::Shed => Self::Shed,
            Cause::GpuMemory => Self::GpuMemory,
            Cause::Drill => Self::Drill,
        }
    }
}

/// One member's handles.
pub struct MemberHandles([Counter; LeftOut::ALL.len()]);

impl MemberHandles {
    /// The handles of a member of an ensemble.
    #[must_use]
    pub fn new(ensemble: &str, member: &str) -> Self {
        Self(LeftOut::ALL.map(|why| {
            counter!(
                names::MEMBERS_LEFT_OUT,
                "ensemble" => ensemble.to_owned(),
                "member" => member.to_owned(),
                "reason" => why.name()
            )
        }))
    }

    /// Counts an answer that the member is not in.
    pub fn left_out(&self, why: LeftOut) {
        self.0[why as usize].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn every_reason_has_a_name_and_a_counter_of_its_own() {
        let (handles, scrape) = scratch(|| MemberHandles::new("all", "a"));
        LeftOut::ALL.iter().for_each(|why| handles.left_out(*why));
        let text = scrape.render();
        for why in LeftOut::ALL {
            let line =
                format!("{}{{ensemble=\"all\",member=\"a\",reason=\"{}\"}} 1", names::MEMBERS_LEFT_OUT, why.name());
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}
