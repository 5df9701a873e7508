//! A hash as one record: when it expires, then its fields.
//!
//! ```text
//! u64 expires (milliseconds since the epoch) | fields × ( u16 length | field | u32 length | value )        little-endian
//! ```

/// A stored hash, not copied.
#[derive(Debug)]
pub(super) struct Hash<'a> {
    expires: u64,
    cells: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Hash<'a> {
    pub(super) const fn until(expires: u64) -> Self {
        Self { expires, cells: Vec::new() }
    }

    /// `None` for a record that is none: it is as good as absent.
    pub(super) fn read(mut record: &'a [u8]) -> Option<Self> {
        let expires = u64::from_le_bytes(*take(&mut record)?);
        let mut cells = Vec::new();
        while !record.is_empty() {
            let length = u16::from_le_bytes(*take(&mut record)?);
            let field = split(&mut record, length.into())?;
            let length = u32::from_le_bytes(*take(&mut record)?);
            cells.push((field, split(&mut record, usize::try_from(length).ok()?)?));
        }
        Some(Self { expires, cells })
    }

    /// When a record expires, without reading the rest.
    pub(super) fn expires(mut record: &[u8]) -> Option<u64> {
        take(&mut record).map(|bytes| u64::from_le_bytes(*bytes))
    }

    pub(super) const fn lives(&self, now: u64) -> bool {
        now < self.expires
    }

    pub(super) fn get(&self, field: &[u8]) -> Option<&'a [u8]> {
        self.cells.iter().find_map(|(name, value)| (*name == field).then_some(*value))
    }

    /// From now on it does not expire.
    pub(super) const fn keep(&mut self) {
        self.expires = u64::MAX;
    }

    /// Sets a field, as HSET does.
    pub(super) fn set(&mut self, field: &'a [u8], value: &'a [u8]) {
        match self.cells.iter_mut().find(|(name, _)| *name == field) {
            Some(cell) => cell.1 = value,
            None => self.cells.push((field, value)),
        }
    }

    /// The record; `None` if a field or value is too long to store.
    pub(super) fn record(&self) -> Option<Vec<u8>> {
        let mut record = self.expires.to_le_bytes().to_vec();
        for (field, value) in &self.cells {
            record.extend(u16::try_from(field.len()).ok()?.to_le_bytes());
            record.extend(*field);
            record.extend(u32::try_from(value.len()).ok()?.to_le_bytes());
            record.extend(*value);
        }
        Some(record)
    }
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}
