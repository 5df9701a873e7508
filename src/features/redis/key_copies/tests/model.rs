//! A push by whoever does not know which keys are copied, against a model: every order in which two copiers, a writer and a server
//! that hangs can take their steps.
//!
//! The copy's server does what it was sent while it hung when it goes on, and that is only after everything else.

/// What may be left out of the protocol, to see that the model would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Whole,
    /// The key is marked in a step of its own, after it was read.
    MarkedLater,
    /// The writer asks before it writes.
    AskedBefore,
    /// A copy that could not be removed is acknowledged all the same.
    RemovalForgotten,
    /// A fill does not look for its lease.
    LeaseForgotten,
}

#[derive(Clone, Debug)]
struct World {
    protocol: Protocol,
    /// The key, and what copiers read: whether it is what the writer writes.
    key_is_new: bool,
    is_marked: bool,
    lease: Option<usize>,
    /// The copy, where there is one: whether it is new.
    copy: Option<bool>,
    copiers: [Copier; 2],
    writer: Writer,
    hangs: bool,
    /// Steps that were sent to the copy's server while it hung.
    sent: Vec<Sent>,
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    Fill { by: usize },
    Removal,
}

#[derive(Clone, Copy, Debug, Default)]
struct Copier {
    steps: usize,
    read_new: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    steps: usize,
    suspects: bool,
    is_refused: bool,
}

const COPIER_STEPS: usize = 4;
const WRITER_STEPS: usize = 3;

impl World {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            key_is_new: false,
            is_marked: false,
            lease: None,
            copy: None,
            copiers: Default::default(),
            writer: Writer::default(),
            hangs: false,
            sent: Vec::new(),
        }
    }

    /// Every world that is one step further.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for by in 0..self.copiers.len() {
            if self.copiers[by].steps < COPIER_STEPS {
                let mut world = self.clone();
                world.copier(by);
                next.push(world);
            }
        }
        if self.writer.steps < WRITER_STEPS {
            let mut world = self.clone();
            world.writer();
            next.push(world);
        }
        if !self.hangs {
            next.push(Self { hangs: true, ..self.clone() });
        }
        next
    }

    fn copier(&mut self, by: usize) {
        let marks_later = self.protocol == Protocol::MarkedLater;
        let step = self.copiers[by].steps;
        self.copiers[by].steps += 1;
        match step {
            // It waits for this answer.
            0 if self.hangs => self.copiers[by].steps = COPIER_STEPS,
            0 => self.lease = Some(by),
            1 => {
                self.copiers[by].read_new = self.key_is_new;
                self.is_marked |= !marks_later;
            }
            2 if self.hangs => self.sent.push(Sent::Fill { by }),
            2 => self.fill(by),
            _ => self.is_marked = true,
        }
    }

    fn fill(&mut self, by: usize) {
        if self.lease == Some(by) || self.protocol == Protocol::LeaseForgotten {
            self.copy = Some(self.copiers[by].read_new);
            self.lease = None;
        }
    }

    fn writer(&mut self) {
        let (write, ask) = if self.protocol == Protocol::AskedBefore { (1, 0) } else { (0, 1) };
        let step = self.writer.steps;
        self.writer.steps += 1;
        if step == write {
            self.key_is_new = true;
        } else if step == ask {
            self.writer.suspects = self.is_marked;
        } else if self.writer.suspects && self.hangs {
            self.sent.push(Sent::Removal);
            self.writer.is_refused = self.protocol != Protocol::RemovalForgotten;
        } else if self.writer.suspects {
            (self.copy, self.lease) = (None, None);
        }
    }

    fn is_acknowledged(&self) -> bool {
        self.writer.steps == WRITER_STEPS && !self.writer.is_refused
    }

    /// Whether somebody who asks now may find what was there before a push that was acknowledged.
    fn is_wrong(&self) -> bool {
        self.is_acknowledged() && !self.hangs && self.copy == Some(false)
    }

    /// The copy's server goes on: whoever asks between what it was sent finds the copy, too.
    fn is_wrong_at_last(&self) -> bool {
        let mut last = Self { hangs: false, ..self.clone() };
        let mut is_wrong = last.is_wrong();
        for sent in &self.sent {
            match sent {
                Sent::Fill { by } => last.fill(*by),
                Sent::Removal => (last.copy, last.lease) = (None, None),
            }
            is_wrong |= last.is_wrong();
        }
        is_wrong
    }
}

/// How many orders there are, and in how many of them an old copy is read after the push was acknowledged.
fn orders(world: &World) -> (usize, usize) {
    let next = world.next();
    if next.is_empty() {
        return (1, usize::from(world.is_wrong_at_last()));
    }
    let is_wrong = world.is_wrong();
    let (all, wrong) = next.iter().map(orders).fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
    (all, if is_wrong { all } else { wrong })
}

#[test]
fn in_no_order_is_an_old_copy_read_after_a_push_by_whoever_knew_of_none() {
    let (all, wrong) = orders(&World::new(Protocol::Whole));
    assert!(all > 10_000, "{all}");
    assert_eq!(wrong, 0);
}

#[test]
fn each_part_of_it_is_needed() {
    use Protocol::{AskedBefore, LeaseForgotten, MarkedLater, RemovalForgotten};
    for protocol in [MarkedLater, AskedBefore, RemovalForgotten, LeaseForgotten] {
        let (all, wrong) = orders(&World::new(protocol));
        assert!(0 < wrong && wrong < all, "{protocol:?}: {wrong} of {all}");
    }
}
