//! Which requests that failed may be answered later: those that nothing could answer now, and that may be asked again.
//!
//! Whether somebody wants that (the caller, or the model's `queue_on_reject`) is for who keeps them to find out.

use crate::{
    config::Model,
    infer::{Answer, Error, Kind, Verdict, may_have_acted},
};

/// Whether a request that ended so may be answered later. One that may have reached a model which must not be asked twice stays
/// unanswered: only its caller knows what to do about that.
#[must_use]
pub(crate) fn may_wait(outcome: &Result<Answer, Error>, model: &Model) -> bool {
    let failed = match outcome {
        Ok(answer) => answer.verdict == Verdict::Failed,
        Err(error) => {
            matches!(error.kind(), Kind::Unavailable | Kind::Shed | Kind::BackendFailed | Kind::DeadlineExceeded)
        }
    };
    failed && (model.idempotent || !may_have_acted(outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_reached_a_model_that_must_not_be_asked_twice_is_not_queued() {
        let mut model = crate::fixture::config().models.remove(1);
        for (kind, once, twice) in [
            (Kind::Unavailable, true, true),
            (Kind::Shed, true, true),
            (Kind::BackendFailed, false, true),
            (Kind::DeadlineExceeded, false, true),
            (Kind::InvalidRequest, false, false),
            (Kind::Internal, false, false),
            (Kind::Cancelled, false, false),
        ] {
            for (idempotent, expected) in [(false, once), (true, twice)] {
                model.idempotent = idempotent;
                assert_eq!(may_wait(&Err(Error::new(kind, "")), &model), expected, "{kind:?}, {idempotent}");
            }
        }
        model.idempotent = false;
        let unsent = || Error::new(Kind::BackendFailed, "no connection").with_acted(false);
        assert!(may_wait(&Err(unsent()), &model), "nothing was sent");
        assert!(!may_wait(&Err(Error::new(Kind::Unavailable, "").with_acted(true)), &model), "a member was asked");
    }
}
