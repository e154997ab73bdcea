//! Hashes over an input and its evaluated element, or over an input alone, for `tidegate.protocols.psi`.
//!
//! Input i is data[offsets[i]..offsets[i + 1]]; the offsets are little-endian i64.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;
use sha2::{Digest, Sha256, Sha512};

const ELEMENT: usize = 32;

/// Inputs a core takes at a time.
const CHUNK: usize = 256;

fn bounds(data: &[u8], offsets: &[u8]) -> PyResult<Vec<usize>> {
    let offsets: Vec<usize> = offsets
        .chunks_exact(8)
        .map(|o| i64::from_le_bytes(o.try_into().expect("chunks have 8 bytes")) as usize)
        .collect();
    let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if offsets.is_empty() || !rising || offsets[offsets.len() - 1] > data.len() {
        return Err(PyValueError::new_err(
            "offsets rise from one input to the next and end within the data",
        ));
    }
    Ok(offsets)
}

fn each<'py, const N: usize>(
    py: Python<'py>,
    count: usize,
    length: usize,
    digest: impl Fn(usize) -> [u8; N] + Sync,
) -> PyResult<Bound<'py, PyBytes>> {
    if !(1..=N).contains(&length) {
        return Err(PyValueError::new_err(format!(
            "digests have 1 to {N} bytes"
        )));
    }
    PyBytes::new_with(py, count * length, |out| {
        py.detach(|| {
            out.par_chunks_mut(CHUNK * length)
                .enumerate()
                .for_each(|(chunk, out)| {
                    for (i, slot) in out.chunks_exact_mut(length).enumerate() {
                        slot.copy_from_slice(&digest(chunk * CHUNK + i)[..length]);
                    }
                });
        });
        Ok(())
    })
}

/// The first `length` bytes of F_k of each input, from k H(input): the hash that ends RFC 9497, 3.3.1 Finalize.
#[pyfunction]
pub fn finalize<'py>(
    py: Python<'py>,
    data: &[u8],
    offsets: &[u8],
    elements: &[u8],
    length: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let bounds = bounds(data, offsets)?;
    let count = bounds.len() - 1;
    let longest = bounds.windows(2).map(|pair| pair[1] - pair[0]).max();
    if elements.len() != count * ELEMENT || longest.unwrap_or(0) > 0xFFFF {
        return Err(PyValueError::new_err(
            "each input has an element of 32 bytes, and at most 65535 bytes itself",
        ));
    }
    each(py, count, length, |i| {
        let input = &data[bounds[i]..bounds[i + 1]];
        Sha512::new()
            .chain_update((input.len() as u16).to_be_bytes())
            .chain_update(input)
            .chain_update((ELEMENT as u16).to_be_bytes())
            .chain_update(&elements[i * ELEMENT..(i + 1) * ELEMENT])
            .chain_update(b"Finalize")
            .finalize()
            .into()
    })
}

/// The first `length` bytes of SHA-256(prefix || input) for each input.
#[pyfunction]
pub fn prefixed_digests<'py>(
    py: Python<'py>,
    data: &[u8],
    offsets: &[u8],
    prefix: &[u8],
    length: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let bounds = bounds(data, offsets)?;
    let start = Sha256::new().chain_update(prefix);
    each(py, bounds.len() - 1, length, |i| {
        start
            .clone()
            .chain_update(&data[bounds[i]..bounds[i + 1]])
            .finalize()
            .into()
    })
}
