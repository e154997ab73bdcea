//! The transforms of `ring` by AVX2, four coefficients at a time.
//!
//! There are no 64-bit multiplications, so factors and quotients are cut into 32-bit halves. The quotient's lowest
//! partial product is left out: it is up to two too small, and products are below 4 q, values below 8 q < 2^63.

use crate::ring::{Factor, Factors, N};
use std::arch::x86_64::*;

/// Four factors, each with its high halves.
#[derive(Clone, Copy)]
struct Four {
    value: __m256i,
    value_high: __m256i,
    quotient: __m256i,
    quotient_high: __m256i,
}

/// Multiples of the prime, in each lane.
#[derive(Clone, Copy)]
struct Modulus {
    one: __m256i,
    one_high: __m256i,
    two: __m256i,
    four: __m256i,
}

#[target_feature(enable = "avx2")]
fn modulus(q: u64) -> Modulus {
    let times = |k: u64| _mm256_set1_epi64x((k * q) as i64);
    Modulus {
        one: times(1),
        one_high: _mm256_srli_epi64::<32>(times(1)),
        two: times(2),
        four: times(4),
    }
}

#[target_feature(enable = "avx2")]
fn four(value: __m256i, quotient: __m256i) -> Four {
    Four {
        value,
        value_high: _mm256_srli_epi64::<32>(value),
        quotient,
        quotient_high: _mm256_srli_epi64::<32>(quotient),
    }
}

/// The same factor in each lane.
#[target_feature(enable = "avx2")]
fn same(factor: Factor) -> Four {
    four(
        _mm256_set1_epi64x(factor.value as i64),
        _mm256_set1_epi64x(factor.quotient as i64),
    )
}

#[target_feature(enable = "avx2")]
fn read(from: &[u64; 4]) -> __m256i {
    // SAFETY: an unaligned load of 32 bytes from a reference to them.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn write(to: &mut [u64; 4], value: __m256i) {
    // SAFETY: an unaligned store of 32 bytes to a reference to them.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}

/// x times the factor, plus at most 3 q. Any x below 2^63.
#[target_feature(enable = "avx2")]
fn times(x: __m256i, w: Four, q: Modulus) -> __m256i {
    let x_high = _mm256_srli_epi64::<32>(x);
    let one = _mm256_srli_epi64::<32>(_mm256_mul_epu32(x_high, w.quotient));
    let other = _mm256_srli_epi64::<32>(_mm256_mul_epu32(x, w.quotient_high));
    let top = _mm256_mul_epu32(x_high, w.quotient_high);
    let quotient = _mm256_add_epi64(top, _mm256_add_epi64(one, other));
    let quotient_high = _mm256_srli_epi64::<32>(quotient);
    let plus = _mm256_add_epi64(
        _mm256_mul_epu32(x_high, w.value),
        _mm256_mul_epu32(x, w.value_high),
    );
    let minus = _mm256_add_epi64(
        _mm256_mul_epu32(quotient_high, q.one),
        _mm256_mul_epu32(quotient, q.one_high),
    );
    let high = _mm256_slli_epi64::<32>(_mm256_sub_epi64(plus, minus));
    let low = _mm256_sub_epi64(
        _mm256_mul_epu32(x, w.value),
        _mm256_mul_epu32(quotient, q.one),
    );
    _mm256_add_epi64(high, low)
}

/// x, less m where it is not below m; both below 2^63.
#[target_feature(enable = "avx2")]
fn below(x: __m256i, m: __m256i) -> __m256i {
    let less = _mm256_castsi256_pd(_mm256_sub_epi64(x, m));
    _mm256_castpd_si256(_mm256_blendv_pd(less, _mm256_castsi256_pd(x), less))
}

#[target_feature(enable = "avx2")]
fn forward_pair(x: __m256i, y: __m256i, w: Four, q: Modulus) -> (__m256i, __m256i) {
    let (x, y) = (below(x, q.four), times(y, w, q));
    let difference = _mm256_sub_epi64(_mm256_add_epi64(x, q.four), y);
    (_mm256_add_epi64(x, y), difference)
}

#[target_feature(enable = "avx2")]
fn backward_pair(x: __m256i, y: __m256i, w: Four, q: Modulus) -> (__m256i, __m256i) {
    let difference = _mm256_sub_epi64(_mm256_add_epi64(x, q.four), y);
    (
        below(_mm256_add_epi64(x, y), q.four),
        times(difference, w, q),
    )
}

/// Rows to columns.
#[target_feature(enable = "avx2")]
fn transposed([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, ba) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (cd, dc) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(ab, cd),
        _mm256_permute2x128_si256::<0x20>(ba, dc),
        _mm256_permute2x128_si256::<0x31>(ab, cd),
        _mm256_permute2x128_si256::<0x31>(ba, dc),
    ]
}

/// Four numbers in a row, and those of the layer below them: the even ones and the odd ones of eight.
#[target_feature(enable = "avx2")]
fn last_rows(table: &[u64], outer: usize) -> [__m256i; 3] {
    let inner = table[2 * outer..].as_chunks().0;
    let (low, high) = (read(&inner[0]), read(&inner[1]));
    let (even, odd) = (
        _mm256_unpacklo_epi64(low, high),
        _mm256_unpackhi_epi64(low, high),
    );
    [
        read(&table[outer..].as_chunks().0[0]),
        _mm256_permute4x64_epi64::<0b11011000>(even),
        _mm256_permute4x64_epi64::<0b11011000>(odd),
    ]
}

#[target_feature(enable = "avx2")]
fn last_factors(factors: &Factors, outer: usize) -> [Four; 3] {
    let values = last_rows(&factors.values, outer);
    let quotients = last_rows(&factors.quotients, outer);
    [
        four(values[0], quotients[0]),
        four(values[1], quotients[1]),
        four(values[2], quotients[2]),
    ]
}

#[target_feature(enable = "avx2")]
fn read_columns(rows: &[[u64; 4]]) -> [__m256i; 4] {
    transposed([
        read(&rows[0]),
        read(&rows[1]),
        read(&rows[2]),
        read(&rows[3]),
    ])
}

#[target_feature(enable = "avx2")]
fn write_columns(rows: &mut [[u64; 4]], columns: [__m256i; 4]) {
    for (row, column) in rows.iter_mut().zip(transposed(columns)) {
        write(row, column);
    }
}

/// Below 8 q to below q.
#[target_feature(enable = "avx2")]
fn reduced(x: __m256i, q: Modulus) -> __m256i {
    below(below(below(x, q.four), q.two), q.one)
}

/// `Prime::transform`.
#[target_feature(enable = "avx2")]
pub fn transform(a: &mut [u64], q: u64, factors: &Factors) {
    assert!(a.len() == N && factors.values.len() == N && factors.quotients.len() == N);
    let q = modulus(q);
    let (low, high) = a.as_chunks_mut::<4>().0.split_at_mut(N / 8);
    let w = same(factors.at(1));
    for (x, y) in low.iter_mut().zip(high) {
        let (sum, difference) = forward_pair(read(x), read(y), w, q);
        write(x, sum);
        write(y, difference);
    }
    let mut parts = 2;
    while parts < N / 4 {
        let quarter = N / parts / 4;
        for (i, part) in a.chunks_exact_mut(4 * quarter).enumerate() {
            let w = same(factors.at(parts + i));
            let inner = 2 * (parts + i);
            let v = [same(factors.at(inner)), same(factors.at(inner + 1))];
            let mut quarters = part.as_chunks_mut::<4>().0.chunks_exact_mut(quarter / 4);
            let [Some(one), Some(two), Some(three), Some(four)] = [(); 4].map(|()| quarters.next())
            else {
                unreachable!("four quarters")
            };
            for (((a, b), c), d) in one.iter_mut().zip(two).zip(three).zip(four) {
                let (x, z) = forward_pair(read(a), read(c), w, q);
                let (y, t) = forward_pair(read(b), read(d), w, q);
                let (x, y) = forward_pair(x, y, v[0], q);
                let (z, t) = forward_pair(z, t, v[1], q);
                write(a, x);
                write(b, y);
                write(c, z);
                write(d, t);
            }
        }
        parts *= 4;
    }
    for (i, rows) in a.as_chunks_mut::<4>().0.chunks_exact_mut(4).enumerate() {
        let [w, v, u] = last_factors(factors, N / 4 + 4 * i);
        let [x, y, z, t] = read_columns(rows);
        let (x, z) = forward_pair(x, z, w, q);
        let (y, t) = forward_pair(y, t, w, q);
        let (x, y) = forward_pair(x, y, v, q);
        let (z, t) = forward_pair(z, t, u, q);
        write_columns(
            rows,
            [reduced(x, q), reduced(y, q), reduced(z, q), reduced(t, q)],
        );
    }
}

/// `Prime::transform_back`.
#[target_feature(enable = "avx2")]
pub fn transform_back(a: &mut [u64], q: u64, factors: &Factors, last: [Factor; 2]) {
    assert!(a.len() == N && factors.values.len() == N && factors.quotients.len() == N);
    let q = modulus(q);
    for (i, rows) in a.as_chunks_mut::<4>().0.chunks_exact_mut(4).enumerate() {
        let [w, v, u] = last_factors(factors, N / 4 + 4 * i);
        let [x, y, z, t] = read_columns(rows);
        let (x, y) = backward_pair(x, y, v, q);
        let (z, t) = backward_pair(z, t, u, q);
        let (x, z) = backward_pair(x, z, w, q);
        let (y, t) = backward_pair(y, t, w, q);
        write_columns(rows, [x, y, z, t]);
    }
    let mut parts = N / 16;
    while parts > 1 {
        let quarter = N / parts / 4;
        for (i, part) in a.chunks_exact_mut(4 * quarter).enumerate() {
            let w = same(factors.at(parts + i));
            let inner = 2 * (parts + i);
            let v = [same(factors.at(inner)), same(factors.at(inner + 1))];
            let mut quarters = part.as_chunks_mut::<4>().0.chunks_exact_mut(quarter / 4);
            let [Some(one), Some(two), Some(three), Some(four)] = [(); 4].map(|()| quarters.next())
            else {
                unreachable!("four quarters")
            };
            for (((a, b), c), d) in one.iter_mut().zip(two).zip(three).zip(four) {
                let (x, y) = backward_pair(read(a), read(b), v[0], q);
                let (z, t) = backward_pair(read(c), read(d), v[1], q);
                let (x, z) = backward_pair(x, z, w, q);
                let (y, t) = backward_pair(y, t, w, q);
                write(a, x);
                write(b, y);
                write(c, z);
                write(d, t);
            }
        }
        parts /= 4;
    }
    let (low, high) = a.as_chunks_mut::<4>().0.split_at_mut(N / 8);
    let last = [same(last[0]), same(last[1])];
    for (x, y) in low.iter_mut().zip(high) {
        let (a, b) = (read(x), read(y));
        let difference = _mm256_sub_epi64(_mm256_add_epi64(a, q.four), b);
        let sum = _mm256_add_epi64(a, b);
        write(x, reduced(times(sum, last[0], q), q));
        write(y, reduced(times(difference, last[1], q), q));
    }
}
