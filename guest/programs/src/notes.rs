//! The service that `notes` offers and `writer` uses: keys and values, both of bytes, in the order of the keys.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

/// The name that it is published under.
pub const NAME: &str = "notes";

/// Sets a value. Data: u8 length of the key, the key, the value. Result: 1 if there was none before, else 0.
pub const PUT: u64 = 1;
/// Data: key. Answer data: the value; result: its length.
pub const GET: u64 = 2;
/// Data: key. Result: 1 if there was a value, else 0.
pub const DELETE: u64 = 3;
/// Result: how many keys there are.
pub const COUNT: u64 = 4;
/// Data: a key, or nothing. Answer data: of the keys that come after it, as many as the caller has room for, each as u8
/// length and the key; result: how many.
pub const LIST: u64 = 5;
/// Answered when all that was answered before is durable. Result: generation of the checkpoint.
pub const COMMIT: u64 = 6;

/// Most bytes of a key; none is empty.
pub const KEY_MAX: usize = 255;
/// Most bytes of a value.
pub const VALUE_MAX: usize = 32 * 1024;
/// What each key counts against the limit of all, beyond its own bytes and its value's.
pub const OVERHEAD: usize = 128;

/// Why a request was refused. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such operation.
    NoSuchOperation = 1,
    /// The data does not fit the operation.
    BadData = 2,
    /// There is no such key.
    NotFound = 3,
    /// Key or value is too long.
    TooLong = 4,
    /// There is no room for more, or the caller has no room for the answer.
    Full = 5,
    /// What there is could not be made durable now; it may be later.
    NotCommitted = 6,
    /// Nothing here is ever made durable: the service may not take checkpoints.
    NeverCommitted = 7,
}

/// A result with this bit is a refusal.
const REFUSED: u64 = 1 << 63;

impl Refusal {
    const ALL: [Refusal; 7] = [
        Refusal::NoSuchOperation,
        Refusal::BadData,
        Refusal::NotFound,
        Refusal::TooLong,
        Refusal::Full,
        Refusal::NotCommitted,
        Refusal::NeverCommitted,
    ];

    /// The result that says so.
    pub const fn to_result(self) -> u64 {
        REFUSED | self as u64
    }

    /// The refusal that a result says, if it is one.
    pub fn from_result(result: u64) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| refusal.to_result() == result)
    }
}

/// The data of a [`PUT`]. A key that is too long makes one that is refused.
pub fn put_data(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(1 + key.len() + value.len());
    data.push(u8::try_from(key.len()).unwrap_or(0));
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    data
}

/// The key of a numbered note, as `writer` writes it.
pub fn numbered_key(number: u64) -> Vec<u8> {
    format!("note {number:08}").into_bytes()
}

/// The number that such a key has.
pub fn number_of(key: &[u8]) -> Option<u64> {
    let number = core::str::from_utf8(key).ok()?.strip_prefix("note ")?.parse().ok()?;
    (numbered_key(number) == key).then_some(number)
}

/// The value of a numbered note: no two numbers have the same.
pub fn numbered_value(number: u64) -> Vec<u8> {
    format!("this is what number {number} says, {:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
}

/// The keys in the answer to a [`LIST`]; none after what is no such answer.
pub fn listed(mut answer: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (len, rest) = answer.split_first()?;
        let (key, rest) = rest.split_at_checked(usize::from(*len))?;
        answer = rest;
        Some(key)
    })
}

/// All keys and values.
#[derive(Debug)]
pub struct Notes {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes that count against the limit.
    used: usize,
    limit: usize,
}

/// Result and data of an answer.
pub type Answer = (u64, Vec<u8>);

impl Notes {
    /// None, with room for so many bytes.
    pub fn new(limit: usize) -> Notes {
        Notes { values: BTreeMap::new(), used: 0, limit }
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// Does what a message asks for, all but [`COMMIT`]. `room`: most bytes of an answer.
    ///
    /// # Errors
    /// It is refused, and nothing has changed.
    pub fn answer(&mut self, operation: u64, data: &[u8], room: usize) -> Result<Answer, Refusal> {
        match operation {
            PUT => {
                let (len, rest) = data.split_first().ok_or(Refusal::BadData)?;
                let (key, value) = rest.split_at_checked(usize::from(*len)).ok_or(Refusal::BadData)?;
                self.put(key, value).map(|new| (u64::from(new), Vec::new()))
            }
            GET => {
                let value = self.values.get(data).ok_or(Refusal::NotFound)?;
                if value.len() > room { Err(Refusal::Full) } else { Ok((value.len() as u64, value.clone())) }
            }
            DELETE => Ok((u64::from(self.delete(data)), Vec::new())),
            COUNT if data.is_empty() => Ok((self.count() as u64, Vec::new())),
            COUNT => Err(Refusal::BadData),
            LIST => Ok(self.list(data, room)),
            _ => Err(Refusal::NoSuchOperation),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Refusal> {
        if key.is_empty() {
            return Err(Refusal::BadData);
        }
        if key.len() > KEY_MAX || value.len() > VALUE_MAX {
            return Err(Refusal::TooLong);
        }
        let old = self.values.get(key).map_or(0, |old| cost(key, old));
        let used = self.used - old + cost(key, value);
        if used > self.limit {
            return Err(Refusal::Full);
        }
        self.used = used;
        Ok(self.values.insert(key.to_vec(), value.to_vec()).is_none())
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let old = self.values.remove(key);
        self.used -= old.as_ref().map_or(0, |old| cost(key, old));
        old.is_some()
    }

    fn list(&self, after: &[u8], room: usize) -> Answer {
        let (mut count, mut data) = (0, Vec::new());
        for key in self.values.range(after.to_vec()..).map(|(key, _)| key).filter(|key| key.as_slice() != after) {
            if data.len() + 1 + key.len() > room {
                break;
            }
            data.push(u8::try_from(key.len()).unwrap_or(0));
            data.extend_from_slice(key);
            count += 1;
        }
        (count, data)
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn put(notes: &mut Notes, key: &[u8], value: &[u8]) -> Result<Answer, Refusal> {
        notes.answer(PUT, &put_data(key, value), 0)
    }

    #[test]
    fn what_is_put_is_there_until_it_is_deleted() {
        let mut notes = Notes::new(1 << 20);
        assert_eq!(put(&mut notes, b"b", b"two"), Ok((1, vec![])));
        assert_eq!(put(&mut notes, b"a", b""), Ok((1, vec![])));
        assert_eq!(put(&mut notes, b"b", b"three"), Ok((0, vec![])));
        assert_eq!(notes.answer(GET, b"b", 5), Ok((5, b"three".to_vec())));
        assert_eq!(notes.answer(GET, b"a", 0), Ok((0, vec![])));
        assert_eq!(notes.answer(COUNT, b"", 0), Ok((2, vec![])));
        assert_eq!(notes.answer(DELETE, b"b", 0), Ok((1, vec![])));
        assert_eq!(notes.answer(DELETE, b"b", 0), Ok((0, vec![])));
        assert_eq!(notes.answer(GET, b"b", 5), Err(Refusal::NotFound));
        assert_eq!(notes.answer(DELETE, b"a", 0), Ok((1, vec![])));
        assert_eq!((notes.count(), notes.used), (0, 0));
    }

    #[test]
    fn keys_are_listed_in_order_and_in_pieces() {
        let mut notes = Notes::new(1 << 20);
        for key in [&b"c"[..], b"a", b"bb"] {
            put(&mut notes, key, b"x").unwrap();
        }
        assert_eq!(notes.answer(LIST, b"", 5), Ok((2, b"\x01a\x02bb".to_vec())));
        assert_eq!(notes.answer(LIST, b"bb", 5), Ok((1, b"\x01c".to_vec())));
        assert_eq!(notes.answer(LIST, b"b", 100), Ok((2, b"\x02bb\x01c".to_vec())));
        assert_eq!(notes.answer(LIST, b"c", 100), Ok((0, vec![])));
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_changes_nothing() {
        let mut notes = Notes::new(2 * (OVERHEAD + 10));
        put(&mut notes, b"k", &[1; 9]).unwrap();
        let long = vec![0; VALUE_MAX + 1];
        for (operation, data, refusal) in [
            (PUT, &b""[..], Refusal::BadData),
            (PUT, b"\x00x", Refusal::BadData),
            (PUT, b"\x02x", Refusal::BadData),
            (PUT, &put_data(b"l", &long), Refusal::TooLong),
            (PUT, &put_data(b"l", &[1; 10]), Refusal::Full),
            (PUT, &put_data(&[7; 300], b""), Refusal::BadData),
            (GET, b"k", Refusal::Full),
            (COUNT, b"x", Refusal::BadData),
            (COMMIT, b"", Refusal::NoSuchOperation),
            (0, b"", Refusal::NoSuchOperation),
        ] {
            assert_eq!(notes.answer(operation, data, 8), Err(refusal), "{operation}");
        }
        assert_eq!(notes.answer(GET, b"k", 9), Ok((9, vec![1; 9])));
        // What it replaces makes room.
        assert_eq!(put(&mut notes, b"k", &[2; 9 + OVERHEAD + 10]), Ok((0, vec![])));
        assert_eq!(put(&mut notes, b"l", b""), Err(Refusal::Full));
    }

    #[test]
    fn numbered_notes_are_known_by_their_keys() {
        let mut notes = Notes::new(1 << 20);
        for number in [0, 7, 99_999_999, 100_000_000] {
            put(&mut notes, &numbered_key(number), &numbered_value(number)).unwrap();
            assert_eq!(number_of(&numbered_key(number)), Some(number));
        }
        for key in [&b"note 7"[..], b"note +0000007", b"note 00000007 ", b"", b"note \xff"] {
            assert_eq!(number_of(key), None, "{key:?}");
        }
        let (count, answer) = notes.answer(LIST, b"", 1000).unwrap();
        assert_eq!(listed(&answer).filter_map(number_of).count() as u64, count);
        assert_eq!(listed(b"\x02a").count() + listed(b"").count(), 0);
    }

    #[test]
    fn refusals_are_told_from_results() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_result(refusal.to_result()), Some(refusal));
        }
        assert_eq!(Refusal::from_result(0), None);
        assert_eq!(Refusal::from_result(5), None);
        assert_eq!(Refusal::from_result(REFUSED), None);
    }
}
