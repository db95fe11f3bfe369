//! The pieces of a state: each with a kind, a version and a length, in a fixed order, without leftovers.

use super::StateError;

/// Bytes in front of each piece: kind, version, length of what follows, 32 bits each.
const HEADER: usize = 12;

/// A kind of piece, and the version of it that is written and read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) kind: u32,
    pub(crate) version: u32,
}

/// Writes pieces one after another.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A piece, all of it little-endian.
    pub(crate) fn section(&mut self, section: Section, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        for word in [section.kind, section.version, length] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(content);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads pieces in the order in which they were written.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The content of the next piece, which must be `section`.
    pub(crate) fn section(&mut self, section: Section) -> Result<Content<'a>, StateError> {
        let (header, rest) =
            self.rest.split_first_chunk::<HEADER>().ok_or(StateError::Damaged("it ends before a piece"))?;
        let word = |index: usize| u32::from_le_bytes(std::array::from_fn(|at| header[index * 4 + at]));
        let (kind, version) = (word(0), word(1));
        if kind != section.kind {
            return Err(StateError::Damaged("its pieces are not those that belong there"));
        }
        if version != section.version {
            return Err(StateError::Version { kind, found: version, known: section.version });
        }
        let length = usize::try_from(word(2)).unwrap_or(usize::MAX);
        let (content, rest) = rest.split_at_checked(length).ok_or(StateError::Damaged("it ends inside of a piece"))?;
        self.rest = rest;
        Ok(Content { rest: content })
    }

    /// There must be nothing left.
    pub(crate) fn finish(self) -> Result<(), StateError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StateError::Damaged("something follows its last piece")) }
    }
}

/// What a piece holds.
pub(crate) struct Content<'a> {
    rest: &'a [u8],
}

impl<'a> Content<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<&'a [u8; N], StateError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(StateError::Damaged("a piece is too short"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StateError> {
        self.bytes().map(|bytes| u64::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StateError> {
        self.bytes().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// There must be nothing left.
    pub(crate) fn finish(self) -> Result<(), StateError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StateError::Damaged("a piece is too long")) }
    }
}
