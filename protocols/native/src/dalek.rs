//! The same on curve25519-dalek, one element at a time: for every CPU, and what the other kernels are held against.

use crate::ristretto::ELEMENT;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;

/// Twice the scalar times each element. Err(i) when element i is no canonical encoding, or the identity.
pub fn multiply(elements: &[u8], scalar: &Scalar, out: &mut [u8]) -> Result<(), usize> {
    let mut points = Vec::with_capacity(elements.len() / ELEMENT);
    for (i, encoding) in elements.chunks_exact(ELEMENT).enumerate() {
        points.push(decoded(encoding).ok_or(i)? * scalar);
    }
    write_doubled(&points, out);
    Ok(())
}

/// Twice the scalar times the element that the one-way map makes of each 64 bytes.
pub fn map_multiply(uniform: &[[u8; 64]], scalar: &Scalar, out: &mut [u8]) {
    let points: Vec<RistrettoPoint> = uniform
        .iter()
        .map(|bytes| RistrettoPoint::from_uniform_bytes(bytes) * scalar)
        .collect();
    write_doubled(&points, out);
}

fn decoded(encoding: &[u8]) -> Option<RistrettoPoint> {
    CompressedRistretto::from_slice(encoding)
        .ok()?
        .decompress()
        .filter(|point| !point.is_identity())
}

fn write_doubled(points: &[RistrettoPoint], out: &mut [u8]) {
    let encodings = RistrettoPoint::double_and_compress_batch(points);
    for (encoding, slot) in encodings.iter().zip(out.chunks_exact_mut(ELEMENT)) {
        slot.copy_from_slice(encoding.as_bytes());
    }
}
