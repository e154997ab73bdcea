//! BFV for `tidegate.protocols.primitives.bfv`, which has the formats and checks what a peer sent.
//!
//! The same operations on the same seeds as `bfv_seal.py`, to the last bit. Polynomials are words, prime after prime.
//! What is secret is wiped when it is dropped, and nothing branches on or indexes by it.

use crate::ring::{below, inverse, product, slot_places, Factor, Prime, Ratio, N};
use crate::stream::Stream;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::OnceLock;
use zeroize::{Zeroize, Zeroizing};

const PRIMES: [u64; 3] = [
    1152921504606683137,
    1152921504606748673,
    1152921504606830593,
];
const SPECIAL_PRIME: u64 = 274877562881;
const COUNT: usize = PRIMES.len();
/// All words of a ciphertext's half.
const HALF: usize = COUNT * N;
const SEED: usize = 32;

/// Products that are added up before they are reduced: each is below 2^120.
const LAZY: usize = 64;
/// Coefficients whose sums stay in the nearest cache.
const STRIP: usize = 256;

type Secret = Zeroizing<Vec<u64>>;

fn primes() -> &'static [Prime] {
    static PRIMES_OF_ALL: OnceLock<Vec<Prime>> = OnceLock::new();
    PRIMES_OF_ALL.get_or_init(|| {
        let all = PRIMES.into_iter().chain([SPECIAL_PRIME]);
        all.map(|q| Prime::new(q).expect("a prime that is 1 modulo 16384"))
            .collect()
    })
}

/// x modulo a prime of PRIMES. Each is 2^60 - d with d < 2^18, so 2^60 is d: two folds leave less than 2^60 + 2^44.
#[inline(always)]
fn folded(x: u128, q: u64) -> u64 {
    const LOW: u64 = (1 << 60) - 1;
    let d = (1 << 60) - q;
    let once = u128::from(x as u64 & LOW) + (x >> 60) * u128::from(d);
    let twice = (once as u64 & LOW) + (once >> 60) as u64 * d;
    below(twice, q)
}

/// a b modulo a prime of PRIMES, for a and b below 2^62: the same, in one multiplication less.
#[inline(always)]
fn times(a: u64, b: u64, q: u64) -> u64 {
    const LOW: u64 = (1 << 60) - 1;
    let d = (1 << 60) - q;
    let x = u128::from(a) * u128::from(b);
    let once = u128::from(x as u64 & LOW) + u128::from((x >> 60) as u64) * u128::from(d);
    let twice = (once as u64 & LOW) + (once >> 60) as u64 * d;
    below(twice, q)
}

fn words(data: &[u8]) -> impl Iterator<Item = u64> + '_ {
    data.chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
}

fn sized(data: &[u8], count: usize) -> PyResult<&[u8]> {
    match data.len() == 8 * count {
        true => Ok(data),
        false => Err(PyValueError::new_err("data of another size was expected")),
    }
}

fn seeded(seed: &[u8]) -> PyResult<Stream> {
    let seed: Zeroizing<[u8; SEED]> = Zeroizing::new(
        seed.try_into()
            .map_err(|_| PyValueError::new_err("a seed has 32 bytes"))?,
    );
    Ok(Stream::new(&seed))
}

fn returned<'py, 'a>(
    py: Python<'py>,
    words: impl ExactSizeIterator<Item = &'a u64>,
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, 8 * words.len(), |out| {
        for (slot, word) in out.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    })
}

fn drawn(stream: &mut Stream, count: usize) -> Secret {
    let mut words = Zeroizing::new(vec![0; count]);
    stream.words(&mut words);
    words
}

/// Uniform in 0, 1, 2, which stand for -1, 0, 1: a word decides, one of 2^64 being too many for the last.
fn ternary(stream: &mut Stream) -> Secret {
    let mut words = drawn(stream, N);
    for word in words.iter_mut() {
        *word = ((u128::from(*word) * 3) >> 64) as u64;
    }
    words
}

/// Centred binomial on -21..21, plus 21.
fn small_noise(stream: &mut Stream, count: usize) -> Secret {
    let mut words = drawn(stream, count);
    for word in words.iter_mut() {
        let (ones, others) = (*word & 0x1f_ffff, *word >> 21 & 0x1f_ffff);
        *word = u64::from(ones.count_ones() + 21 - others.count_ones());
    }
    words
}

/// The flood: integers uniform in -2^130..2^130 - 1, of 60, 60 and 11 bits.
struct Flood {
    words: Secret,
    count: usize,
}

impl Flood {
    fn new(stream: &mut Stream, count: usize) -> Self {
        Flood {
            words: drawn(stream, 3 * count),
            count,
        }
    }

    /// Number i in pieces of 60, 30, 30 and 11 bits.
    #[inline(always)]
    fn pieces(&self, i: usize) -> [u64; 4] {
        let word = |k: usize| self.words[k * self.count + i];
        let b = word(1) >> 4;
        [word(0) >> 4, b & LOW_30, b >> 30, word(2) >> 53]
    }
}

const LOW_30: u64 = (1 << 30) - 1;

/// a + b 2^60 + c 2^120 - 2^130 modulo a prime of PRIMES, or that and a multiple of it: below 2^62. 2^60 is d, and
/// with b in two pieces every product is below 2^60.
#[inline(always)]
fn flooding([a, b_low, b_high, c]: [u64; 4], q: u64) -> u64 {
    let d = (1 << 60) - q;
    let high = b_high * d;
    let b = b_low * d + ((high & LOW_30) << 30) + (high >> 30) * d;
    a + b + c * d * d + (q - ((d * d) << 10))
}

/// x below 2^63 modulo a prime of PRIMES.
#[inline(always)]
fn short(x: u64, q: u64) -> u64 {
    const LOW: u64 = (1 << 60) - 1;
    below((x & LOW) + (x >> 60) * ((1 << 60) - q), q)
}

#[pyclass(frozen)]
struct BfvSecret {
    /// Values, prime after prime.
    values: Secret,
}

#[pyclass(frozen)]
struct BfvPublic {
    /// b, then a, by the three primes of a ciphertext.
    values: Vec<u64>,
}

#[pyclass(frozen)]
struct BfvCiphertext {
    /// Values: both halves, prime after prime.
    values: Vec<u64>,
}

#[pyclass(frozen)]
struct BfvPlaintext {
    /// Values, prime after prime.
    values: Vec<u64>,
}

#[pymethods]
impl BfvCiphertext {
    fn residues<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        returned(py, self.values.iter())
    }
}

/// The operations for one plaintext modulus.
#[pyclass(frozen)]
pub struct Bfv {
    plain: Prime,
    places: Vec<u16>,
    /// floor(q / T) by each prime.
    delta: [Factor; COUNT],
    /// (q modulo T) / T, and T / q_0.
    rest: Ratio,
    scale: Ratio,
    /// 1 / q_2 modulo q_0 and q_1, and 1 / q_1 modulo q_0.
    switch: [Factor; 3],
}

#[pymethods]
impl Bfv {
    #[new]
    fn new(modulus: u64) -> PyResult<Self> {
        let plain = Some(modulus)
            .filter(|t| t >> 46 == 0)
            .and_then(Prime::new)
            .ok_or_else(|| PyValueError::new_err("no prime modulus with slots"))?;
        let q_rest = PRIMES
            .iter()
            .fold(1, |rest, q| product(rest, q % modulus, modulus));
        // q - q_rest is a multiple of T, and q is 0 modulo each prime.
        let delta = PRIMES.map(|q| Factor::new(product(q - q_rest, inverse(modulus, q), q), q));
        let [q0, q1, q2] = PRIMES;
        Ok(Bfv {
            plain,
            places: slot_places(),
            delta,
            rest: Ratio::new(q_rest, modulus),
            scale: Ratio::new(modulus, q0),
            switch: [
                Factor::new(inverse(q2 % q0, q0), q0),
                Factor::new(inverse(q2 % q1, q1), q1),
                Factor::new(inverse(q1 % q0, q0), q0),
            ],
        })
    }

    /// A secret key, and its public key's residues.
    fn key<'py>(
        &self,
        py: Python<'py>,
        secret_seed: &[u8],
        public_seed: &[u8],
    ) -> PyResult<(BfvSecret, Bound<'py, PyBytes>)> {
        let (mut secret, mut open) = (seeded(secret_seed)?, seeded(public_seed)?);
        let (secret, public) = py.detach(|| {
            let s = ternary(&mut secret);
            let e = small_noise(&mut secret, N);
            let mut values = Zeroizing::new(Vec::with_capacity((COUNT + 1) * N));
            let (mut public, mut second) = (Vec::new(), Vec::new());
            for prime in primes() {
                let q = prime.q;
                let transformed = |small: &[u64], zero: u64| {
                    let mut values: Secret =
                        Zeroizing::new(small.iter().map(|x| below(x + q - zero, q)).collect());
                    prime.transform(&mut values);
                    values
                };
                let (s, e) = (transformed(&s, 1), transformed(&e, 21));
                let mut a = vec![0; N];
                open.integers(q, &mut a);
                let b = s.iter().zip(e.iter()).zip(&a);
                public.extend(b.map(|((s, e), a)| below(2 * q - product(*s, *a, q) - e, q)));
                second.extend(a);
                values.extend_from_slice(&s);
            }
            values[HALF..].zeroize();
            values.truncate(HALF);
            public.extend(second);
            (BfvSecret { values }, public)
        });
        Ok((secret, returned(py, public.iter())?))
    }

    /// The upload for a block of slots, or for its first residue in every slot.
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        secret: &Bound<'py, BfvSecret>,
        block: &[u8],
        noise_seed: &[u8],
        seed: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (mut noise, mut open) = (seeded(noise_seed)?, seeded(seed)?);
        let constant = block.len() == 8;
        let block = sized(block, if constant { 1 } else { N })?;
        let secret = &secret.get().values;
        PyBytes::new_with(py, SEED + 8 * HALF, |out| {
            py.detach(|| {
                let mut message = Zeroizing::new(vec![0; N]);
                if constant {
                    message[0] = words(block).next().unwrap_or(0);
                } else {
                    self.fill_coefficients(block, &mut message);
                }
                let mut small = small_noise(&mut noise, N);
                for (e, m) in small.iter_mut().zip(message.iter()) {
                    *e += self.rest(*m);
                }
                let mut half = Zeroizing::new(vec![0; N]);
                let mut a = vec![0; N];
                let (start, rest) = out.split_at_mut(SEED);
                start.copy_from_slice(seed);
                for (i, out) in rest.chunks_exact_mut(8 * N).enumerate() {
                    let (prime, q) = (&primes()[i], PRIMES[i]);
                    for ((x, m), e) in half.iter_mut().zip(message.iter()).zip(small.iter()) {
                        *x = self.delta[i].times(*m, q) + e + (q - 21);
                    }
                    prime.transform(&mut half);
                    open.integers(q, &mut a);
                    let terms = half.iter().zip(&a).zip(&secret[i * N..]);
                    for (slot, ((x, a), s)) in out.chunks_exact_mut(8).zip(terms) {
                        let value = below(x + q - times(*a, *s, q), q);
                        slot.copy_from_slice(&value.to_le_bytes());
                    }
                }
            });
            Ok(())
        })
    }

    /// The slots of a result.
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        secret: &Bound<'py, BfvSecret>,
        result: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let result = sized(result, 2 * N)?;
        let secret = &secret.get().values;
        let slots = py.detach(|| {
            let (prime, q) = (&primes()[0], PRIMES[0]);
            let (first, second) = result.split_at(8 * N);
            let mut phase: Secret = Zeroizing::new(words(second).collect());
            prime.transform(&mut phase);
            for (x, s) in phase.iter_mut().zip(secret.iter()) {
                *x = times(*x, *s, q);
            }
            prime.transform_back(&mut phase);
            for (x, c) in phase.iter_mut().zip(words(first)) {
                *x = self.rounded(below(*x + c, q));
            }
            self.plain.transform(&mut phase);
            let slots = self.places.iter().map(|at| phase[usize::from(*at)]);
            Zeroizing::new(slots.collect::<Vec<u64>>())
        });
        returned(py, slots.iter())
    }

    /// The sum of the slots of which a result's constant coefficient and second half are given.
    fn decrypt_sum(
        &self,
        py: Python<'_>,
        secret: &Bound<'_, BfvSecret>,
        data: &[u8],
    ) -> PyResult<u64> {
        let data = sized(data, 1 + N)?;
        let secret = &secret.get().values;
        Ok(py.detach(|| {
            let (prime, q) = (&primes()[0], PRIMES[0]);
            let mut second: Secret = Zeroizing::new(words(&data[8..]).collect());
            prime.transform(&mut second);
            // The constant coefficient is the values' mean.
            let total = second
                .iter()
                .zip(secret.iter())
                .fold(0, |total, (x, s)| below(total + times(*x, *s, q), q));
            let mean = below(prime.n_inverse().times(total, q), q);
            let first = words(data).next().unwrap_or(0);
            let constant = self.rounded(below(mean + first, q));
            product(constant, N as u64, self.plain.q)
        }))
    }

    fn public(&self, data: &[u8]) -> PyResult<BfvPublic> {
        let data = sized(data, 2 * (COUNT + 1) * N)?;
        let (b, a) = data.split_at(8 * (COUNT + 1) * N);
        Ok(BfvPublic {
            values: words(&b[..8 * HALF]).chain(words(&a[..8 * HALF])).collect(),
        })
    }

    /// The ciphertext in an upload.
    fn load(&self, py: Python<'_>, upload: &[u8]) -> PyResult<BfvCiphertext> {
        if upload.len() != SEED + 8 * HALF {
            return Err(PyValueError::new_err("data of another size was expected"));
        }
        let mut open = seeded(&upload[..SEED])?;
        Ok(py.detach(|| {
            let mut values = Vec::with_capacity(2 * HALF);
            values.extend(words(&upload[SEED..]));
            values.resize(2 * HALF, 0);
            for (a, q) in values[HALF..].chunks_exact_mut(N).zip(PRIMES) {
                open.integers(q, a);
            }
            BfvCiphertext { values }
        }))
    }

    /// Slots as a factor: the coefficients, centred, by each prime.
    fn encode(&self, py: Python<'_>, slots: &[u8]) -> PyResult<BfvPlaintext> {
        let slots = sized(slots, N)?;
        Ok(py.detach(|| {
            let t = self.plain.q;
            let mut message = Zeroizing::new(vec![0; N]);
            self.fill_coefficients(slots, &mut message);
            let mut values = vec![0; HALF];
            for (values, prime) in values.chunks_exact_mut(N).zip(primes()) {
                for (x, m) in values.iter_mut().zip(message.iter()) {
                    // All ones where the coefficient stands for a negative one.
                    let negative = u64::from(*m > t / 2).wrapping_neg();
                    *x = m + (negative & (prime.q - t));
                }
                prime.transform(values);
            }
            BfvPlaintext { values }
        }))
    }

    /// sum + the sum of ciphertext_i * factor_i.
    fn combine(
        &self,
        py: Python<'_>,
        sum: Option<&Bound<'_, BfvCiphertext>>,
        ciphertexts: Vec<Bound<'_, BfvCiphertext>>,
        factors: Vec<Bound<'_, BfvPlaintext>>,
    ) -> PyResult<BfvCiphertext> {
        if ciphertexts.len() != factors.len() {
            return Err(PyValueError::new_err("each ciphertext has a factor"));
        }
        let sum = sum.map(|sum| &sum.get().values[..]);
        let pairs: Vec<(&[u64], &[u64])> = ciphertexts
            .iter()
            .zip(&factors)
            .map(|(c, f)| (&c.get().values[..], &f.get().values[..]))
            .collect();
        Ok(py.detach(|| {
            let mut values = sum.map_or_else(|| vec![0; 2 * HALF], <[u64]>::to_vec);
            for pairs in pairs.chunks(LAZY) {
                add_products(&mut values, pairs);
            }
            BfvCiphertext { values }
        }))
    }

    /// sum + mask, re-randomised and flooded, at full q: coefficients, prime after prime, of both halves.
    #[pyo3(signature = (public, sum, mask, seed))]
    fn hidden<'py>(
        &self,
        py: Python<'py>,
        public: &Bound<'py, BfvPublic>,
        sum: Option<&Bound<'py, BfvCiphertext>>,
        mask: &[u8],
        seed: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mask = sized(mask, N)?;
        let mut stream = seeded(seed)?;
        let public = &public.get().values;
        let sum = sum.map(|sum| &sum.get().values[..]);
        let hidden = py.detach(|| self.flooded(public, sum, mask, &mut stream));
        returned(py, hidden.iter())
    }

    /// The same, switched to the first prime.
    #[pyo3(signature = (public, sum, mask, seed))]
    fn sanitise<'py>(
        &self,
        py: Python<'py>,
        public: &Bound<'py, BfvPublic>,
        sum: Option<&Bound<'py, BfvCiphertext>>,
        mask: &[u8],
        seed: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mask = sized(mask, N)?;
        let mut stream = seeded(seed)?;
        let public = &public.get().values;
        let sum = sum.map(|sum| &sum.get().values[..]);
        let mut hidden = py.detach(|| {
            let mut hidden = self.flooded(public, sum, mask, &mut stream);
            for half in hidden.chunks_exact_mut(HALF) {
                self.switch_half(half);
            }
            hidden
        });
        let (first, second) = hidden.split_at_mut(HALF);
        first[N..2 * N].copy_from_slice(&second[..N]);
        returned(py, first[..2 * N].iter())
    }

    /// The constant coefficient of the first half and the second half of what `sanitise` makes, where the mask is
    /// the residue in the constant coefficient.
    #[pyo3(signature = (public, sum, residue, seed))]
    fn sanitise_sum<'py>(
        &self,
        py: Python<'py>,
        public: &Bound<'py, BfvPublic>,
        sum: Option<&Bound<'py, BfvCiphertext>>,
        residue: u64,
        seed: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        if residue >= self.plain.q {
            return Err(PyValueError::new_err("a residue is below its modulus"));
        }
        let mut stream = seeded(seed)?;
        let public = &public.get().values;
        let sum = sum.map(|sum| &sum.get().values[..]);
        let out = py.detach(|| {
            let u = ternary(&mut stream);
            let e2 = small_noise(&mut stream, N);
            let e1 = small_noise(&mut stream, 1);
            let flood = Flood::new(&mut stream, 1);
            let mut first = [0; COUNT];
            let mut second = Zeroizing::new(vec![0; HALF]);
            for (i, second) in second.chunks_exact_mut(N).enumerate() {
                let (prime, q) = (&primes()[i], PRIMES[i]);
                let u = transformed_ternary(&u, prime);
                let at = i * N..(i + 1) * N;
                let known = sum.map(|sum| &sum[HALF..][at.clone()]);
                masked(second, &u, &public[HALF..][at.clone()], known, q);
                let total = u.iter().zip(&public[at.clone()]);
                let total = total.fold(0, |total, (u, b)| below(total + times(*u, *b, q), q));
                let total = sum.map_or(total, |sum| {
                    sum[at].iter().fold(total, |total, x| below(total + x, q))
                });
                // The constant coefficient is the values' mean.
                let mean = below(prime.n_inverse().times(total, q), q);
                first[i] = self.covered(
                    mean,
                    e1[0] + self.rest(residue),
                    residue,
                    flood.pieces(0),
                    i,
                );
                prime.transform_back(second);
                for (x, e) in second.iter_mut().zip(e2.iter()) {
                    *x = below(*x + below(e + (q - 21), q), q);
                }
            }
            self.switch_half(&mut second);
            let mut out = vec![self.switched(first)];
            out.extend_from_slice(&second[..N]);
            out
        });
        returned(py, out.iter())
    }
}

impl Bfv {
    /// The message polynomial of slots.
    fn fill_coefficients(&self, slots: &[u8], out: &mut [u64]) {
        for (at, value) in self.places.iter().zip(words(slots)) {
            out[usize::from(*at)] = value;
        }
        self.plain.transform_back(out);
    }

    /// round((q modulo T) m / T): with floor(q / T) m it is round(q m / T).
    #[inline(always)]
    fn rest(&self, m: u64) -> u64 {
        self.rest.times(m, self.plain.q.div_ceil(2))
    }

    /// x with a message, its rest and noise (plus 21) and a flood added, modulo prime i: terms below q, 2 q, 2^46, 2^62.
    #[inline(always)]
    fn covered(&self, x: u64, small: u64, m: u64, flood: [u64; 4], i: usize) -> u64 {
        let q = PRIMES[i];
        let message = self.delta[i].times(m, q);
        short(
            below(x + message, 2 * q) + flooding(flood, q) + small + (q - 21),
            q,
        )
    }

    /// round(T x / q_0) modulo T.
    #[inline(always)]
    fn rounded(&self, x: u64) -> u64 {
        below(self.scale.times(x, PRIMES[0] / 2), self.plain.q)
    }

    fn flooded(
        &self,
        public: &[u64],
        sum: Option<&[u64]>,
        mask: &[u8],
        stream: &mut Stream,
    ) -> Secret {
        let u = ternary(stream);
        let e2 = small_noise(stream, N);
        let e1 = small_noise(stream, N);
        let flood = Flood::new(stream, N);
        let mut message = Zeroizing::new(vec![0; N]);
        self.fill_coefficients(mask, &mut message);
        let mut out = Zeroizing::new(vec![0; 2 * HALF]);
        let (first, second) = out.split_at_mut(HALF);
        let halves = first.chunks_exact_mut(N).zip(second.chunks_exact_mut(N));
        for (i, (first, second)) in halves.enumerate() {
            let (prime, q) = (&primes()[i], PRIMES[i]);
            let u = transformed_ternary(&u, prime);
            for (out, start) in [(&mut *first, 0), (&mut *second, HALF)] {
                let at = start + i * N..start + (i + 1) * N;
                masked(out, &u, &public[at.clone()], sum.map(|sum| &sum[at]), q);
                prime.transform_back(out);
            }
            for (x, e) in second.iter_mut().zip(e2.iter()) {
                *x = below(below(*x + e + (q - 21), 2 * q), q);
            }
        }
        for k in 0..N {
            let (m, pieces) = (message[k], flood.pieces(k));
            let small = e1[k] + self.rest(m);
            for i in 0..COUNT {
                out[i * N + k] = self.covered(out[i * N + k], small, m, pieces, i);
            }
        }
        out
    }

    /// One half (three primes) switched down to the first prime, in its place.
    fn switch_half(&self, half: &mut [u64]) {
        let (first, rest) = half.split_at_mut(N);
        let (second, third) = rest.split_at_mut(N);
        for ((x, y), z) in first.iter_mut().zip(second).zip(third) {
            *x = self.switched([*x, *y, *z]);
        }
    }

    /// round(round(x / q_2) / q_1) modulo q_0.
    #[inline(always)]
    fn switched(&self, x: [u64; COUNT]) -> u64 {
        let [q0, q1, q2] = PRIMES;
        // x less its centred residue by the last prime, divided by that.
        let drop = |x: u64, last: u64, q_last: u64, q: u64, inverse: Factor| {
            let lifted = below(last + q_last / 2, q_last);
            let half = below(q_last / 2, q);
            below(inverse.times(x + 2 * q + half - below(lifted, q), q), q)
        };
        let y0 = drop(x[0], x[2], q2, q0, self.switch[0]);
        let y1 = drop(x[1], x[2], q2, q1, self.switch[1]);
        drop(y0, y1, q1, q0, self.switch[2])
    }
}

fn transformed_ternary(u: &[u64], prime: &Prime) -> Secret {
    let mut values: Secret = Zeroizing::new(u.iter().map(|x| x + prime.q - 1).collect());
    prime.transform(&mut values);
    values
}

/// An encryption of zero, less its noise, and the sum, all in values.
fn masked(out: &mut [u64], u: &[u64], key: &[u64], sum: Option<&[u64]>, q: u64) {
    let fresh = out.iter_mut().zip(u).zip(key);
    match sum {
        Some(sum) => {
            for (((x, u), key), sum) in fresh.zip(sum) {
                *x = below(times(*u, *key, q) + sum, q);
            }
        }
        None => fresh.for_each(|((x, u), key)| *x = times(*u, *key, q)),
    }
}

/// values += the sum of products, for at most LAZY pairs of a ciphertext and a factor.
fn add_products(values: &mut [u64], pairs: &[(&[u64], &[u64])]) {
    let (first, second) = values.split_at_mut(HALF);
    let strips = first
        .chunks_exact_mut(STRIP)
        .zip(second.chunks_exact_mut(STRIP));
    for (number, (first, second)) in strips.enumerate() {
        let at = number * STRIP;
        let q = PRIMES[at / N];
        let mut sums = [[0u128; STRIP]; 2];
        let fours = pairs.chunks_exact(4);
        for (sum, start) in sums.iter_mut().zip([at, HALF + at]) {
            for pairs in fours.clone() {
                let c = [0, 1, 2, 3].map(|k| &pairs[k].0[start..][..STRIP]);
                let f = [0, 1, 2, 3].map(|k| &pairs[k].1[at..][..STRIP]);
                for i in 0..STRIP {
                    let term = |k: usize| u128::from(c[k][i]) * u128::from(f[k][i]);
                    sum[i] += term(0) + term(1) + term(2) + term(3);
                }
            }
            for (ciphertext, factor) in fours.remainder() {
                let terms = ciphertext[start..][..STRIP]
                    .iter()
                    .zip(&factor[at..][..STRIP]);
                for (sum, (c, f)) in sum.iter_mut().zip(terms) {
                    *sum += u128::from(*c) * u128::from(*f);
                }
            }
        }
        for (out, sum) in [first, second].into_iter().zip(&sums) {
            for (x, sum) in out.iter_mut().zip(sum) {
                *x = folded(sum + u128::from(*x), q);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::power;

    #[test]
    fn reductions_are_right_at_the_edges_of_their_ranges() {
        for q in PRIMES {
            let edges = [0, 1, q / 2, q - 1];
            for (a, b) in edges.into_iter().flat_map(|a| edges.map(|b| (a, b))) {
                assert_eq!(times(a, b, q), product(a, b, q));
                let most = LAZY as u128 * u128::from(a) * u128::from(b) + u128::from(a);
                assert_eq!(u128::from(folded(most, q)), most % u128::from(q));
            }
            for x in [0, q - 1, q, 2 * q, (1 << 60) - 1, 1 << 60, (1 << 63) - 1] {
                assert_eq!(short(x, q), x % q);
            }
        }
    }

    #[test]
    fn a_flood_is_the_number_that_its_pieces_make() {
        for q in PRIMES {
            for pieces in [
                [0; 4],
                [(1 << 60) - 1, LOW_30, LOW_30, (1 << 11) - 1],
                [5, 1, 1, 1],
            ] {
                let [a, low, high, c] = pieces.map(u128::from);
                let two = |exponent: u64| u128::from(power(2, exponent, q));
                let sum = a + (low + (high << 30)) * two(60) + c * two(120);
                let expected = (sum + u128::from(q) - two(130)) % u128::from(q);
                assert!(flooding(pieces, q) < 1 << 62);
                assert_eq!(u128::from(flooding(pieces, q) % q), expected);
            }
        }
    }

    #[test]
    fn sums_of_the_largest_products_do_not_overflow() {
        let most: Vec<u64> = (0..2 * HALF).map(|i| PRIMES[i / N % COUNT] - 1).collect();
        for count in [1, 4, 6, LAZY] {
            let mut values = most.clone();
            add_products(&mut values, &vec![(&most[..], &most[..HALF]); count]);
            // (-1) (-1) so many times, and -1.
            assert!(values.iter().all(|value| *value == count as u64 - 1));
        }
    }
}
