//! Polynomials modulo X^8192 + 1 and a prime that is 1 modulo 16384, in SEAL's order of values.
//!
//! The transform is Longa and Naehrig's (eprint 2016/504) with Harvey's lazy butterflies (arXiv 1205.2926): values
//! stay below four times the prime and are reduced once, at the end. Nothing branches on or indexes by a coefficient.

#[cfg(target_arch = "x86_64")]
use crate::ring_avx2;

pub const N: usize = 8192;
const LOG_N: u32 = N.trailing_zeros();

/// A factor with floor(factor * 2^64 / q), which makes a product by it modulo q two multiplications and one more
/// (Shoup).
#[derive(Clone, Copy, Default)]
pub struct Factor {
    pub value: u64,
    pub quotient: u64,
}

impl Factor {
    pub fn new(value: u64, q: u64) -> Self {
        Factor {
            value,
            quotient: ((u128::from(value) << 64) / u128::from(q)) as u64,
        }
    }

    /// x times this modulo q, or that plus q. Any x.
    #[inline(always)]
    pub fn times(self, x: u64, q: u64) -> u64 {
        let quotient = high(x, self.quotient);
        x.wrapping_mul(self.value)
            .wrapping_sub(quotient.wrapping_mul(q))
    }
}

#[inline(always)]
fn high(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// x, less m where it is not below m.
#[inline(always)]
pub fn below(x: u64, m: u64) -> u64 {
    x.min(x.wrapping_sub(m))
}

/// A factor and a denominator to divide the product by, rounding to the nearest.
pub struct Ratio {
    factor: Factor,
    denominator: u64,
}

impl Ratio {
    pub fn new(factor: u64, denominator: u64) -> Self {
        Ratio {
            factor: Factor::new(factor, denominator),
            denominator,
        }
    }

    /// floor((x * factor + half) / denominator), half being half the denominator, rounded as the caller wants it.
    #[inline(always)]
    pub fn times(&self, x: u64, half: u64) -> u64 {
        let quotient = high(x, self.factor.quotient);
        let rest = self.factor.times(x, self.denominator) + half;
        // The quotient may be one too small, and the half may add one.
        quotient + u64::from(rest >= self.denominator) + u64::from(rest >= 2 * self.denominator)
    }
}

pub fn product(a: u64, b: u64, q: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(q)) as u64
}

pub fn power(base: u64, mut exponent: u64, q: u64) -> u64 {
    let (mut square, mut result) = (base % q, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = product(result, square, q);
        }
        square = product(square, square, q);
        exponent >>= 1;
    }
    result
}

pub fn inverse(a: u64, q: u64) -> u64 {
    power(a, q - 2, q)
}

/// Factors, values and quotients apart, as vector instructions read them.
pub struct Factors {
    pub values: Vec<u64>,
    pub quotients: Vec<u64>,
}

impl Factors {
    #[inline(always)]
    pub fn at(&self, i: usize) -> Factor {
        Factor {
            value: self.values[i],
            quotient: self.quotients[i],
        }
    }
}

/// A prime's powers of the root.
pub struct Prime {
    pub q: u64,
    /// psi^reversed(i) at i.
    forward: Factors,
    /// psi^-reversed(i) at i.
    backward: Factors,
    /// 1 / N, and 1 / N times the factor of the last butterflies of the way back.
    last: [Factor; 2],
}

impl Prime {
    /// None for what has no primitive 16384th root of unity.
    pub fn new(q: u64) -> Option<Self> {
        let order = 2 * N as u64;
        if q % order != 1 || q >> 62 != 0 {
            return None;
        }
        let is_primitive = |root: &u64| power(*root, N as u64, q) == q - 1;
        let root = (2..1000)
            .map(|base| power(base, (q - 1) / order, q))
            .find(is_primitive)?;
        // SEAL takes the smallest of them, and its order of values follows from that.
        let square = product(root, root, q);
        let psi = std::iter::successors(Some(root), |other| Some(product(*other, square, q)))
            .take(N)
            .min()?;
        let powers = |base: u64| {
            let mut found = Factors {
                values: vec![0; N],
                quotients: vec![0; N],
            };
            let mut value = 1;
            for i in 0..N {
                let factor = Factor::new(value, q);
                found.values[reversed(i)] = factor.value;
                found.quotients[reversed(i)] = factor.quotient;
                value = product(value, base, q);
            }
            found
        };
        let backward = powers(inverse(psi, q));
        let n_inverse = inverse(N as u64, q);
        let last = [n_inverse, product(n_inverse, backward.values[1], q)];
        Some(Prime {
            q,
            forward: powers(psi),
            last: last.map(|value| Factor::new(value, q)),
            backward,
        })
    }

    /// 1 / N.
    pub fn n_inverse(&self) -> Factor {
        self.last[0]
    }

    /// Coefficients below 4 q to values below q.
    pub fn transform(&self, a: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { ring_avx2::transform(a, self.q, &self.forward) };
        }
        self.transform_plainly(a);
    }

    fn transform_plainly(&self, a: &mut [u64]) {
        assert_eq!(a.len(), N);
        let q = self.q;
        let butterfly = |x: u64, y: u64, w: Factor| {
            let (x, y) = (below(x, 2 * q), w.times(y, q));
            (x + y, x + 2 * q - y)
        };
        let (low, high) = a.split_at_mut(N / 2);
        for (x, y) in low.iter_mut().zip(high) {
            (*x, *y) = butterfly(*x, *y, self.forward.at(1));
        }
        // Two layers at a time.
        let mut parts = 2;
        while parts < N {
            let quarter = N / parts / 4;
            for (i, part) in a.chunks_exact_mut(4 * quarter).enumerate() {
                let w = self.forward.at(parts + i);
                let v = [0, 1].map(|k| self.forward.at(2 * (parts + i) + k));
                let (half, other) = part.split_at_mut(2 * quarter);
                let (one, two) = half.split_at_mut(quarter);
                let (three, four) = other.split_at_mut(quarter);
                for (((a, b), c), d) in one.iter_mut().zip(two).zip(three).zip(four) {
                    let (x, z) = butterfly(*a, *c, w);
                    let (y, t) = butterfly(*b, *d, w);
                    (*a, *b) = butterfly(x, y, v[0]);
                    (*c, *d) = butterfly(z, t, v[1]);
                }
            }
            parts *= 4;
        }
        for x in a {
            *x = below(below(*x, 2 * q), q);
        }
    }

    /// Values below 2 q to coefficients below q.
    pub fn transform_back(&self, a: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { ring_avx2::transform_back(a, self.q, &self.backward, self.last) };
        }
        self.transform_back_plainly(a);
    }

    fn transform_back_plainly(&self, a: &mut [u64]) {
        assert_eq!(a.len(), N);
        let q = self.q;
        let butterfly =
            |x: u64, y: u64, w: Factor| (below(x + y, 2 * q), w.times(x + 2 * q - y, q));
        let mut parts = N / 2;
        while parts > 1 {
            let quarter = N / parts / 2;
            parts /= 2;
            for (i, part) in a.chunks_exact_mut(4 * quarter).enumerate() {
                let w = self.backward.at(parts + i);
                let v = [0, 1].map(|k| self.backward.at(2 * (parts + i) + k));
                let (half, other) = part.split_at_mut(2 * quarter);
                let (one, two) = half.split_at_mut(quarter);
                let (three, four) = other.split_at_mut(quarter);
                for (((a, b), c), d) in one.iter_mut().zip(two).zip(three).zip(four) {
                    let (x, y) = butterfly(*a, *b, v[0]);
                    let (z, t) = butterfly(*c, *d, v[1]);
                    (*a, *c) = butterfly(x, z, w);
                    (*b, *d) = butterfly(y, t, w);
                }
            }
            parts /= 2;
        }
        let (low, high) = a.split_at_mut(N / 2);
        for (x, y) in low.iter_mut().zip(high) {
            let (sum, difference) = (*x + *y, *x + 2 * q - *y);
            *x = below(self.last[0].times(sum, q), q);
            *y = below(self.last[1].times(difference, q), q);
        }
    }
}

fn reversed(i: usize) -> usize {
    i.reverse_bits() >> (usize::BITS - LOG_N)
}

/// Where SEAL's BatchEncoder puts slot i among the values.
pub fn slot_places() -> Vec<u16> {
    let order = 2 * N;
    let mut places = vec![0; N];
    let mut position = 1;
    for i in 0..N / 2 {
        places[i] = reversed((position - 1) / 2) as u16;
        places[N / 2 + i] = reversed((order - position - 1) / 2) as u16;
        position = position * 3 % order;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMES: [u64; 5] = [
        1152921504606683137,
        1152921504606748673,
        1152921504606830593,
        274877562881,
        35184371613697,
    ];

    fn scattered(seed: u64, q: u64) -> Vec<u64> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            product(state, state ^ 0x9e3779b97f4a7c15, q)
        };
        (0..N).map(|_| next()).collect()
    }

    #[test]
    fn a_product_of_values_is_the_negacyclic_product_of_coefficients() {
        for q in PRIMES {
            let prime = Prime::new(q).unwrap();
            let (a, b) = (scattered(1, q), scattered(2, q));
            let (mut x, mut y) = (a.clone(), b.clone());
            prime.transform(&mut x);
            prime.transform(&mut y);
            for (x, y) in x.iter_mut().zip(&y) {
                *x = product(*x, *y, q);
            }
            prime.transform_back(&mut x);
            for k in [0, 1, 2, 4095, 4096, 8190, 8191] {
                let mut expected = 0;
                for i in 0..N {
                    let term = product(a[i], b[(k + N - i) % N], q);
                    expected = (expected + if i <= k { term } else { q - term }) % q;
                }
                assert_eq!(x[k], expected, "coefficient {k} modulo {q}");
            }
        }
    }

    #[test]
    fn there_and_back_is_where_it_was_at_the_edges_of_the_range_too() {
        for q in PRIMES {
            let prime = Prime::new(q).unwrap();
            for start in [vec![0; N], vec![q - 1; N], scattered(3, q)] {
                let mut a = start.clone();
                prime.transform(&mut a);
                assert!(a.iter().all(|&value| value < q));
                prime.transform_back(&mut a);
                assert_eq!(a, start);
                let mut lazy: Vec<u64> = start.iter().map(|value| value + 3 * q).collect();
                prime.transform(&mut lazy);
                prime.transform_back(&mut lazy);
                assert_eq!(lazy, start);
            }
        }
    }

    #[test]
    fn vector_instructions_and_plain_code_agree() {
        for q in PRIMES {
            let prime = Prime::new(q).unwrap();
            for start in [vec![0; N], vec![q - 1; N], scattered(5, q)] {
                let (mut a, mut b) = (start.clone(), start);
                prime.transform(&mut a);
                prime.transform_plainly(&mut b);
                assert_eq!(a, b);
                prime.transform_back(&mut a);
                prime.transform_back_plainly(&mut b);
                assert_eq!(a, b);
            }
        }
    }

    #[test]
    fn ratios_are_rounded_as_whole_numbers_are() {
        let (q, t) = (PRIMES[0], PRIMES[4]);
        let ratio = Ratio::new(t, q);
        for x in [0, 1, q / t, q / 2, q - 1]
            .into_iter()
            .chain(scattered(4, q))
        {
            let exact = (u128::from(x) * u128::from(t) + u128::from(q / 2)) / u128::from(q);
            assert_eq!(u128::from(ratio.times(x, q / 2)), exact);
        }
    }

    #[test]
    fn what_has_no_root_is_refused() {
        assert!(Prime::new(97).is_none());
        assert!(Prime::new(16384 * 3 + 2).is_none());
        assert!(Prime::new(u64::MAX).is_none());
    }
}
