//! What clients saw of rows that only ever get newer versions, and whether one register a row could have answered so.
//!
//! A push of a version that is older than the stored one changes nothing. So a row is a register that keeps the greatest version,
//! and a history is linearizable if and only if each read returns
//!
//! - at least every version that was acknowledged, or read, before it was asked (else it is *stale*, or *went back*),
//! - and none but one whose push had begun before it was answered (else it is *from nowhere*).
//!
//! What was not answered may have happened at any time, or never.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

/// What a client did to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Push,
    Read,
}

/// One operation on one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) key: u32,
    pub(crate) act: Act,
    /// What was pushed, or read; 0: there was no row.
    pub(crate) version: u64,
    pub(crate) asked: Instant,
    /// `None`: nobody knows what became of it.
    pub(crate) answered: Option<Instant>,
}

/// What was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Violations {
    /// Reads that returned less than a push that was acknowledged before.
    pub(crate) stale: usize,
    /// Reads that returned less than a read before.
    pub(crate) back: usize,
    /// Reads of what nobody had pushed.
    pub(crate) from_nowhere: usize,
}

/// Checks a history, row by row; shows the first few operations that are wrong.
pub(crate) fn check(history: &[Operation]) -> Violations {
    let mut rows = BTreeMap::<u32, Vec<&Operation>>::new();
    for operation in history {
        rows.entry(operation.key).or_default().push(operation);
    }
    let mut violations = Violations::default();
    rows.values().for_each(|row| check_row(row, &mut violations));
    violations
}

fn check_row(row: &[&Operation], violations: &mut Violations) {
    let pushed: HashMap<u64, Instant> =
        row.iter().filter(|op| op.act == Act::Push).map(|op| (op.version, op.asked)).collect();
    let mut done: Vec<_> = row.iter().filter_map(|op| Some((op.answered?, **op))).collect();
    done.sort_by_key(|(answered, _)| *answered);
    let mut reads: Vec<_> = done.iter().filter(|(_, op)| op.act == Act::Read).copied().collect();
    reads.sort_by_key(|(_, op)| op.asked);
    let (mut done, mut acknowledged, mut seen) = (done.into_iter().peekable(), 0, 0);
    for (answered, read) in reads {
        while let Some((_, before)) = done.next_if(|(answered, _)| *answered < read.asked) {
            let floor = if before.act == Act::Push { &mut acknowledged } else { &mut seen };
            *floor = before.version.max(*floor);
        }
        let is_known = read.version == 0 || pushed.get(&read.version).is_some_and(|asked| *asked < answered);
        let wrong = match () {
            () if !is_known => &mut violations.from_nowhere,
            () if read.version < acknowledged => &mut violations.stale,
            () if read.version < seen => &mut violations.back,
            () => continue,
        };
        *wrong += 1;
        if *wrong <= 3 {
            println!("wrong: {read:?}, acknowledged {acknowledged}, seen {seen}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `(act, version, asked, answered)`, in milliseconds.
    fn violations(operations: &[(Act, u64, u64, Option<u64>)]) -> (usize, usize, usize) {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let operation = |&(act, version, asked, answered): &(Act, u64, u64, Option<u64>)| Operation {
            key: 1,
            act,
            version,
            asked: at(asked),
            answered: answered.map(at),
        };
        let mut history: Vec<_> = operations.iter().map(operation).collect();
        // Another row's operations are another row's.
        history.push(Operation { key: 2, act: Act::Push, version: 99, asked: at(0), answered: Some(at(0)) });
        let Violations { stale, back, from_nowhere } = check(&history);
        (stale, back, from_nowhere)
    }

    use Act::{Push, Read};

    #[test]
    fn what_one_register_could_have_answered_is_right() {
        assert_eq!(violations(&[(Read, 0, 0, Some(1)), (Push, 1, 2, Some(3)), (Read, 1, 4, Some(5))]), (0, 0, 0));
        // At the same time, either is right.
        for seen in [0, 1] {
            assert_eq!(violations(&[(Push, 1, 2, Some(9)), (Read, seen, 3, Some(4))]), (0, 0, 0));
        }
        // One that nobody knows the end of may happen late, or never, or at once.
        assert_eq!(violations(&[(Push, 1, 0, None), (Read, 0, 5, Some(6)), (Read, 1, 7, Some(8))]), (0, 0, 0));
        // An older version that is pushed later changes nothing.
        let older = [(Push, 2, 0, Some(1)), (Push, 1, 2, Some(3)), (Read, 2, 4, Some(5))];
        assert_eq!(violations(&older), (0, 0, 0));
        // A read that nobody answered says nothing.
        assert_eq!(violations(&[(Push, 1, 0, Some(1)), (Read, 0, 2, None)]), (0, 0, 0));
    }

    #[test]
    fn what_is_older_than_an_acknowledged_push_is_stale() {
        assert_eq!(violations(&[(Push, 1, 0, Some(1)), (Read, 0, 2, Some(3))]), (1, 0, 0));
        let second = [(Push, 1, 0, Some(1)), (Push, 2, 2, Some(3)), (Read, 1, 4, Some(9)), (Read, 1, 5, Some(6))];
        assert_eq!(violations(&second), (2, 0, 0));
        let older = [(Push, 2, 0, Some(1)), (Push, 1, 2, Some(3)), (Read, 1, 4, Some(5))];
        assert_eq!(violations(&older), (1, 0, 0), "the later push was of an older one");
    }

    #[test]
    fn reads_that_go_back_are_found_also_where_nothing_was_acknowledged() {
        assert_eq!(violations(&[(Push, 1, 0, None), (Read, 1, 1, Some(2)), (Read, 0, 3, Some(4))]), (0, 1, 0));
        let during = [(Push, 1, 0, Some(9)), (Read, 1, 1, Some(2)), (Read, 0, 3, Some(4))];
        assert_eq!(violations(&during), (0, 1, 0), "before the push is acknowledged");
        assert_eq!(violations(&[(Push, 1, 0, None), (Read, 1, 1, Some(4)), (Read, 0, 3, Some(5))]), (0, 0, 0));
    }

    #[test]
    fn what_nobody_pushed_yet_is_from_nowhere() {
        assert_eq!(violations(&[(Read, 7, 0, Some(1))]), (0, 0, 1));
        assert_eq!(violations(&[(Read, 1, 0, Some(1)), (Push, 1, 2, Some(3))]), (0, 0, 1));
    }
}
