//! Batch arithmetic on ristretto255 (RFC 9496) for `tidegate.protocols.primitives.group`.
//!
//! Elements are concatenated 32-byte encodings. Work is spread over all cores with Python's lock released. Nothing
//! here branches on or indexes by a scalar or an element's value, but for the one thing that is announced anyway:
//! that an encoding was refused.

mod finalize;

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

const ELEMENT: usize = 32;

/// Elements a core takes at a time: enough that their encodings share one inversion at little cost each.
const CHUNK: usize = 64;

/// 1/2 modulo the group order. Encoding twice an element needs no square root of its own, so multiply by half.
fn halved(scalar: &[u8]) -> PyResult<Zeroizing<Scalar>> {
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(
        scalar
            .try_into()
            .map_err(|_| PyValueError::new_err("a scalar has 32 bytes"))?,
    );
    let scalar: Option<Scalar> = Scalar::from_canonical_bytes(*bytes).into();
    match scalar {
        Some(scalar) if scalar != Scalar::ZERO => {
            Ok(Zeroizing::new(scalar * Scalar::from(2u64).invert()))
        }
        _ => Err(PyValueError::new_err(
            "a scalar lies in 1..order-1, in 32 little-endian bytes",
        )),
    }
}

fn write_doubled(points: &[RistrettoPoint], out: &mut [u8]) {
    let encodings = RistrettoPoint::double_and_compress_batch(points);
    for (encoding, slot) in encodings.iter().zip(out.chunks_exact_mut(ELEMENT)) {
        slot.copy_from_slice(encoding.as_bytes());
    }
}

fn decoded(encoding: &[u8]) -> Option<RistrettoPoint> {
    CompressedRistretto::from_slice(encoding)
        .ok()?
        .decompress()
        .filter(|point| !point.is_identity())
}

/// scalar times each element. ValueError(i) when element i is no canonical encoding, or the identity.
#[pyfunction]
fn multiply<'py>(py: Python<'py>, elements: &[u8], scalar: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    if elements.len() % ELEMENT != 0 {
        return Err(PyValueError::new_err("elements have 32 bytes each"));
    }
    let half = halved(scalar)?;
    PyBytes::new_with(py, elements.len(), |out| {
        py.detach(|| {
            out.par_chunks_mut(CHUNK * ELEMENT)
                .zip(elements.par_chunks(CHUNK * ELEMENT))
                .enumerate()
                .try_for_each(|(chunk, (out, elements))| {
                    let mut points = Vec::with_capacity(CHUNK);
                    for (i, encoding) in elements.chunks_exact(ELEMENT).enumerate() {
                        let point = decoded(encoding).ok_or(chunk * CHUNK + i)?;
                        points.push(point * *half);
                    }
                    write_doubled(&points, out);
                    Ok(())
                })
        })
        .map_err(|index: usize| PyValueError::new_err(index))
    })
}

/// RFC 9380 expand_message_xmd for SHA-512 and 64 bytes, which are a single block.
fn expanded(message: &[u8], start: &Sha512, dst_prime: &[u8]) -> [u8; 64] {
    let b_0 = start
        .clone()
        .chain_update(message)
        .chain_update([0, 64, 0])
        .chain_update(dst_prime)
        .finalize();
    Sha512::new()
        .chain_update(b_0)
        .chain_update([1])
        .chain_update(dst_prime)
        .finalize()
        .into()
}

/// scalar times the hash-to-group (RFC 9497, 4.1) of each input.
///
/// Input i is data[offsets[i]..offsets[i + 1]]; the offsets are little-endian i64.
#[pyfunction]
fn hash_multiply<'py>(
    py: Python<'py>,
    data: &[u8],
    offsets: &[u8],
    dst: &[u8],
    scalar: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
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
    if dst.is_empty() || dst.len() > 255 {
        return Err(PyValueError::new_err("a domain has 1 to 255 bytes"));
    }
    let half = halved(scalar)?;
    let dst_prime = [dst, &[dst.len() as u8]].concat();
    let start = Sha512::new().chain_update([0u8; 128]);
    PyBytes::new_with(py, (offsets.len() - 1) * ELEMENT, |out| {
        py.detach(|| {
            out.par_chunks_mut(CHUNK * ELEMENT)
                .enumerate()
                .for_each(|(chunk, out)| {
                    let first = chunk * CHUNK;
                    let points: Vec<RistrettoPoint> = (first..first + out.len() / ELEMENT)
                        .map(|i| {
                            let input = &data[offsets[i]..offsets[i + 1]];
                            let uniform = expanded(input, &start, &dst_prime);
                            RistrettoPoint::from_uniform_bytes(&uniform) * *half
                        })
                        .collect();
                    write_doubled(&points, out);
                });
        });
        Ok(())
    })
}

/// The first `length` bytes of SHA-512(prefix || element) for each element.
#[pyfunction]
fn digests<'py>(
    py: Python<'py>,
    elements: &[u8],
    prefix: &[u8],
    length: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    if elements.len() % ELEMENT != 0 || !(1..=64).contains(&length) {
        return Err(PyValueError::new_err(
            "elements have 32 bytes each, digests 1 to 64",
        ));
    }
    let start = Sha512::new().chain_update(prefix);
    PyBytes::new_with(py, elements.len() / ELEMENT * length, |out| {
        py.detach(|| {
            out.par_chunks_mut(CHUNK * length)
                .zip(elements.par_chunks(CHUNK * ELEMENT))
                .for_each(|(out, elements)| {
                    for (slot, element) in out
                        .chunks_exact_mut(length)
                        .zip(elements.chunks_exact(ELEMENT))
                    {
                        let digest = start.clone().chain_update(element).finalize();
                        slot.copy_from_slice(&digest[..length]);
                    }
                });
        });
        Ok(())
    })
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(multiply, module)?)?;
    module.add_function(wrap_pyfunction!(hash_multiply, module)?)?;
    module.add_function(wrap_pyfunction!(digests, module)?)?;
    module.add_function(wrap_pyfunction!(finalize::finalize, module)?)?;
    module.add_function(wrap_pyfunction!(finalize::prefixed_digests, module)?)
}
