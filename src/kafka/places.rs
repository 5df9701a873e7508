//! Where the consumer is in each partition: which are read, which wait for their end to be known, how far behind each is.

use std::collections::BTreeMap;

/// Where to begin with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// It was there before anybody looked: where it ends now.
    End,
    /// It came later: all of it is news.
    Beginning,
}

/// Every partition that is known.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Whether the topic was looked at.
    looked: bool,
    partitions: BTreeMap<i32, Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Not read yet.
    Waits(Begin),
    /// The next offset that is to be read.
    At(i64),
}

impl Places {
    /// A look found these partitions. Those that it did not find stay: who is looked at may know less than who was before.
    pub(super) fn found(&mut self, partitions: impl IntoIterator<Item = i32>) {
        let begin = if self.looked { Begin::Beginning } else { Begin::End };
        self.looked = true;
        for partition in partitions {
            self.partitions.entry(partition).or_insert(Place::Waits(begin));
        }
    }

    /// Whether the topic was looked at, and none waits.
    pub(super) fn are_settled(&self) -> bool {
        self.looked && self.waiting().next().is_none()
    }

    /// What is to be begun.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (i32, Begin)> {
        self.partitions.iter().filter_map(|(partition, place)| match place {
            Place::Waits(begin) => Some((*partition, *begin)),
            Place::At(_) => None,
        })
    }

    /// What is read, each from where on.
    pub(super) fn read(&self) -> impl Iterator<Item = (i32, i64)> {
        self.partitions.iter().filter_map(|(partition, place)| match place {
            Place::At(offset) => Some((*partition, *offset)),
            Place::Waits(_) => None,
        })
    }

    /// A partition is read from an offset on.
    pub(super) fn begin(&mut self, partition: i32, offset: i64) {
        self.partitions.insert(partition, Place::At(offset));
    }

    /// A message was dealt with.
    pub(super) fn advance(&mut self, partition: i32, offset: i64) {
        if let Some(Place::At(next)) = self.partitions.get_mut(&partition) {
            *next = offset + 1;
        }
    }

    /// Whether a partition that is read ends there, before what is to be read next. Since no end goes back, its log is another one than it
    /// was. An end from before the last message was read says nothing of that.
    pub(super) fn is_past(&self, partition: i32, end: i64) -> bool {
        matches!(self.partitions.get(&partition), Some(Place::At(next)) if (0..*next).contains(&end))
    }

    /// What was to be read is not there any more: from the end on again. Which are meant is not always told.
    pub(super) fn lose(&mut self) {
        self.partitions.values_mut().for_each(|place| *place = Place::Waits(Begin::End));
    }

    /// Messages of a partition that are still to be read, where it ends there; `None`: it is not read, or librdkafka does not know its end
    /// (less than 0). An end from before the last message was read is none of that.
    pub(super) fn lag(&self, partition: i32, end: i64) -> Option<u64> {
        match self.partitions.get(&partition)? {
            Place::At(next) => u64::try_from(end).ok().map(|_| u64::try_from(end - next).unwrap_or(0)),
            Place::Waits(_) => None,
        }
    }
}
