//! Exact joins of byte strings of one width, for `tidegate.protocols.psi.join`.
//!
//! A table of 32-bit places, open addressing, linear probing. Slots are found by a keyed hash of the whole string and
//! strings are compared whole, so the answer is exact and a peer that does not know the key cannot fill one corner.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;

const EMPTY: u32 = u32::MAX;
const MOST: usize = 1 << 31;

#[derive(Clone, Copy)]
struct Hasher {
    start: u64,
    factor: u64,
}

impl Hasher {
    fn new(key: &[u8]) -> PyResult<Self> {
        let key: [u8; 16] = key
            .try_into()
            .map_err(|_| PyValueError::new_err("a key has 16 bytes"))?;
        let word = |at: usize| u64::from_le_bytes(key[at..at + 8].try_into().expect("8 bytes"));
        Ok(Hasher {
            start: word(0),
            factor: word(8) | 1,
        })
    }

    fn hash(self, string: &[u8]) -> u64 {
        let mut state = self.start ^ string.len() as u64;
        let mut words = string.chunks_exact(8);
        for word in &mut words {
            state = self.mixed(state, u64::from_le_bytes(word.try_into().expect("8 bytes")));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            state = self.mixed(state, u64::from_le_bytes(last));
        }
        self.mixed(state, self.start)
    }

    fn mixed(self, state: u64, word: u64) -> u64 {
        let product = u128::from(state ^ word) * u128::from(self.factor);
        (product as u64) ^ ((product >> 64) as u64).rotate_left(23)
    }
}

struct Table {
    slots: Vec<u32>,
    hasher: Hasher,
}

impl Table {
    fn new(n: usize, hasher: Hasher) -> Self {
        let size = (n + n / 2 + 2).next_power_of_two();
        Table {
            slots: vec![EMPTY; size],
            hasher,
        }
    }

    /// Enters `place`, or gives the place of the equal string that is there already.
    fn enter<'a>(
        &mut self,
        place: u32,
        string: &[u8],
        at: impl Fn(u32) -> &'a [u8],
    ) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash(string) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => {
                    self.slots[slot] = place;
                    return None;
                }
                other if at(other) == string => return Some(other),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// The bytes of an array that Python lends for the time of the call.
fn lent<'a>(buffer: &'a PyBuffer<u8>, width: usize) -> PyResult<&'a [u8]> {
    if !buffer.is_c_contiguous() || width == 0 || buffer.item_count() % width != 0 {
        return Err(PyValueError::new_err(
            "expected whole rows in one piece of memory",
        ));
    }
    if buffer.item_count() == 0 {
        return Ok(&[]);
    }
    // SAFETY: the buffer is contiguous, has item_count() bytes, and its exporter may neither move nor free it while
    // `buffer` lives. The callers in join.py write to no array that they have lent.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr() as *const u8, buffer.item_count()) })
}

fn check(n: usize) -> PyResult<()> {
    if n >= MOST {
        return Err(PyValueError::new_err(
            "too many strings for places of 32 bits",
        ));
    }
    Ok(())
}

fn little_endian(places: &[u32]) -> Vec<u8> {
    places
        .iter()
        .flat_map(|place| place.to_le_bytes())
        .collect()
}

/// (places in own, places in peer) of equal strings, by rising place in peer; None if one side has a string twice.
#[pyfunction]
#[allow(clippy::type_complexity)]
pub fn equal_places<'py>(
    py: Python<'py>,
    own: PyBuffer<u8>,
    peer: PyBuffer<u8>,
    width: usize,
    key: &[u8],
) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
    let (own, peer) = (lent(&own, width)?, lent(&peer, width)?);
    let (n, m) = (own.len() / width, peer.len() / width);
    check(n + m)?;
    let hasher = Hasher::new(key)?;
    let found = py.detach(|| {
        let at = |place: u32| {
            let place = place as usize;
            let (side, place) = if place < n {
                (own, place)
            } else {
                (peer, place - n)
            };
            &side[place * width..(place + 1) * width]
        };
        let mut table = Table::new(n + m, hasher);
        let mut matched = vec![false; n];
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for place in 0..(n + m) as u32 {
            match table.enter(place, at(place), at) {
                None => {}
                // An equal string on the same side, or one that this side had entered too.
                Some(other)
                    if (place as usize) < n || (other as usize) >= n || matched[other as usize] =>
                {
                    return None;
                }
                Some(other) => {
                    matched[other as usize] = true;
                    first.push(other);
                    second.push(place - n as u32);
                }
            }
        }
        Some((little_endian(&first), little_endian(&second)))
    });
    Ok(found.map(|(first, second)| (PyBytes::new(py, &first), PyBytes::new(py, &second))))
}

/// Whether two of the strings are equal.
#[pyfunction]
pub fn has_repeats(
    py: Python<'_>,
    items: PyBuffer<u8>,
    width: usize,
    key: &[u8],
) -> PyResult<bool> {
    let items = lent(&items, width)?;
    check(items.len() / width)?;
    let hasher = Hasher::new(key)?;
    Ok(py.detach(|| {
        let at = |place: u32| &items[place as usize * width..(place as usize + 1) * width];
        let mut table = Table::new(items.len() / width, hasher);
        (0..(items.len() / width) as u32).any(|place| table.enter(place, at(place), at).is_some())
    }))
}

/// A keyed 64-bit hash of each string data[offsets[i]..offsets[i + 1]], in little-endian bytes.
#[pyfunction]
pub fn fingerprints<'py>(
    py: Python<'py>,
    data: &[u8],
    offsets: &[u8],
    key: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let offsets: Vec<usize> = offsets
        .chunks_exact(8)
        .map(|offset| i64::from_le_bytes(offset.try_into().expect("8 bytes")) as usize)
        .collect();
    let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if offsets.is_empty() || !rising || offsets[offsets.len() - 1] > data.len() {
        return Err(PyValueError::new_err(
            "offsets rise from one string to the next and end within the data",
        ));
    }
    let hasher = Hasher::new(key)?;
    let hashes: Vec<u8> = py.detach(|| {
        offsets
            .par_windows(2)
            .flat_map_iter(|pair| hasher.hash(&data[pair[0]..pair[1]]).to_le_bytes())
            .collect()
    });
    Ok(PyBytes::new(py, &hashes))
}
