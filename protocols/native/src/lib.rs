//! Batch arithmetic on ristretto255 (RFC 9496) for `tidegate.protocols.primitives.group`; BFV is in `bfv`, joins in `join`.
//!
//! Elements are concatenated 32-byte encodings. Work is spread over all cores with Python's lock released. Nothing
//! here branches on or indexes by a scalar or an element's value, but for the one thing that is announced anyway:
//! that an encoding was refused.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod bfv;
mod dalek;
mod field;
mod finalize;
mod ifma;
mod join;
mod kernel;
mod ring;
#[cfg(target_arch = "x86_64")]
mod ring_avx2;
mod ristretto;
mod stream;

use curve25519_dalek::scalar::Scalar;
use kernel::{Half, Kernel};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;
use ristretto::ELEMENT;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

/// Elements a core takes at a time: enough that their encodings share one inversion at little cost each.
const CHUNK: usize = 128;

fn halved(scalar: &[u8]) -> PyResult<Half> {
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(
        scalar
            .try_into()
            .map_err(|_| PyValueError::new_err("a scalar has 32 bytes"))?,
    );
    let scalar: Option<Scalar> = Scalar::from_canonical_bytes(*bytes).into();
    match scalar.map(Zeroizing::new) {
        Some(scalar) if *scalar != Scalar::ZERO => Ok(Half::of(&scalar)),
        _ => Err(PyValueError::new_err(
            "a scalar lies in 1..order-1, in 32 little-endian bytes",
        )),
    }
}

fn chosen(kernel: Option<&str>) -> PyResult<&'static Kernel> {
    kernel::named(kernel).ok_or_else(|| {
        let names: Vec<&str> = kernel::kernels().iter().map(|kernel| kernel.name).collect();
        PyValueError::new_err(format!("kernels here are {}", names.join(", ")))
    })
}

/// The names of the kernels that run here, the fastest first, which is the one used when none is asked for.
#[pyfunction]
fn kernels() -> Vec<&'static str> {
    kernel::kernels().iter().map(|kernel| kernel.name).collect()
}

/// scalar times each element. ValueError(i) when element i is the first that is no canonical encoding, or the identity.
#[pyfunction]
#[pyo3(signature = (elements, scalar, kernel=None))]
fn multiply<'py>(
    py: Python<'py>,
    elements: &[u8],
    scalar: &[u8],
    kernel: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    if elements.len() % ELEMENT != 0 {
        return Err(PyValueError::new_err("elements have 32 bytes each"));
    }
    let half = halved(scalar)?;
    let kernel = chosen(kernel)?;
    PyBytes::new_with(py, elements.len(), |out| {
        let bad = py.detach(|| {
            out.par_chunks_mut(CHUNK * ELEMENT)
                .zip(elements.par_chunks(CHUNK * ELEMENT))
                .enumerate()
                .find_map_first(|(chunk, (out, elements))| {
                    let bad = (kernel.multiply)(elements, &half, out).err()?;
                    Some(chunk * CHUNK + bad)
                })
        });
        bad.map_or(Ok(()), |index| Err(PyValueError::new_err(index)))
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
#[pyo3(signature = (data, offsets, dst, scalar, kernel=None))]
fn hash_multiply<'py>(
    py: Python<'py>,
    data: &[u8],
    offsets: &[u8],
    dst: &[u8],
    scalar: &[u8],
    kernel: Option<&str>,
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
    let kernel = chosen(kernel)?;
    let dst_prime = [dst, &[dst.len() as u8]].concat();
    let start = Sha512::new().chain_update([0u8; 128]);
    PyBytes::new_with(py, (offsets.len() - 1) * ELEMENT, |out| {
        py.detach(|| {
            out.par_chunks_mut(CHUNK * ELEMENT)
                .enumerate()
                .for_each(|(chunk, out)| {
                    let first = chunk * CHUNK;
                    let uniform: Vec<[u8; 64]> = (first..first + out.len() / ELEMENT)
                        .map(|i| expanded(&data[offsets[i]..offsets[i + 1]], &start, &dst_prime))
                        .collect();
                    (kernel.map_multiply)(&uniform, &half, out);
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
    module.add_class::<bfv::Bfv>()?;
    module.add_function(wrap_pyfunction!(kernels, module)?)?;
    module.add_function(wrap_pyfunction!(multiply, module)?)?;
    module.add_function(wrap_pyfunction!(hash_multiply, module)?)?;
    module.add_function(wrap_pyfunction!(digests, module)?)?;
    module.add_function(wrap_pyfunction!(join::equal_places, module)?)?;
    module.add_function(wrap_pyfunction!(join::has_repeats, module)?)?;
    module.add_function(wrap_pyfunction!(join::fingerprints, module)?)?;
    module.add_function(wrap_pyfunction!(finalize::finalize, module)?)?;
    module.add_function(wrap_pyfunction!(finalize::prefixed_digests, module)?)
}
