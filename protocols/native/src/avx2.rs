//! Four numbers at a time in AVX2 registers: ten limbs of 26 and 25 bits in turn, each in a 64-bit lane.
//!
//! vpmuludq multiplies 32 bits by 32. A product's limbs lie below 2^26 + 2^16 and 2^25 + 2^16 (*size* 1, see `field`).
//! On the right of a product 19 times a limb must fit 32 bits: size 3 has 19 (3.01 2^26) < 2^32. On the left twice
//! an odd limb must: size 6 has 2 (6.01 2^25) < 2^32. The sum of a column is largest in column 0: 2^52 (1 + 4 19) +
//! 2^50 (5 38) = 2^52 124.5 for sizes 1 and 1, and 18.1 times that is below 2^63.2 for sizes 6 and 3.

use crate::field::{bits, each, put_bits, Field, Mask, Words, MAX_LANES};
use core::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx2([__m256i; 10]);

const WIDTH: [usize; 10] = [26, 25, 26, 25, 26, 25, 26, 25, 26, 25];
const START: [usize; 10] = [0, 26, 51, 77, 102, 128, 153, 179, 204, 230];

/// Limb k of 2p.
const fn twice_p(k: usize) -> i64 {
    let full = (1 << (WIDTH[k] + 1)) - 2;
    if k == 0 {
        full - 36
    } else {
        full
    }
}

// SAFETY, for every block below: the intrinsics need AVX2 and nothing else. This type is used by `kernel::avx2` alone,
// whose entry functions run only where the CPU has it.

impl Field for Avx2 {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(words: Words) -> Self {
        let mut limbs = unsafe { [_mm256_setzero_si256(); 10] };
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            limbs[K] = unsafe { _mm256_set1_epi64x(bits(&words, START[K], WIDTH[K]) as i64) };
        });
        Avx2(limbs)
    }

    #[inline(always)]
    fn load(words: &[Words; MAX_LANES]) -> Self {
        let mut limbs = unsafe { [_mm256_setzero_si256(); 10] };
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            let limb = |lane: usize| bits(&words[lane], START[K], WIDTH[K]) as i64;
            limbs[K] = unsafe { _mm256_set_epi64x(limb(3), limb(2), limb(1), limb(0)) };
        });
        Avx2(limbs)
    }

    #[inline(always)]
    fn store(self) -> [Words; MAX_LANES] {
        let frozen = self.freeze();
        let mut words = [[0; 4]; MAX_LANES];
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            let mut limbs = [0u64; 4];
            unsafe { _mm256_storeu_si256(limbs.as_mut_ptr().cast(), frozen.0[K]) };
            each!(LANE in [0 1 2 3] {
                put_bits(&mut words[LANE], START[K], WIDTH[K], limbs[LANE]);
            });
        });
        words
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            self.0[K] = unsafe { _mm256_add_epi64(self.0[K], other.0[K]) };
        });
        self
    }

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            unsafe {
                let lifted = _mm256_add_epi64(self.0[K], _mm256_set1_epi64x(twice_p(K)));
                self.0[K] = _mm256_sub_epi64(lifted, other.0[K]);
            }
        });
        self
    }

    #[inline(always)]
    fn sub_wide(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            unsafe {
                let lifted = _mm256_add_epi64(self.0[K], _mm256_set1_epi64x(2 * twice_p(K)));
                self.0[K] = _mm256_sub_epi64(lifted, other.0[K]);
            }
        });
        self
    }

    #[inline(always)]
    fn carry(self) -> Self {
        let mut low = self;
        unsafe {
            each!(K in [0 1 2 3 4 5 6 7 8 9] {
                low.0[K] = _mm256_and_si256(self.0[K], _mm256_set1_epi64x((1 << WIDTH[K]) - 1));
            });
            each!(K in [0 1 2 3 4 5 6 7 8] {
                let carried = _mm256_srli_epi64::<{ WIDTH[K] as i32 }>(self.0[K]);
                low.0[K + 1] = _mm256_add_epi64(low.0[K + 1], carried);
            });
            let carried = _mm256_srli_epi64::<25>(self.0[9]);
            low.0[0] =
                _mm256_add_epi64(low.0[0], _mm256_mul_epu32(carried, _mm256_set1_epi64x(19)));
        }
        low
    }

    #[inline(always)]
    fn ready(self) -> Self {
        self
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        called_mul(&self, &other)
    }

    #[inline(always)]
    fn square(self) -> Self {
        called_square_times(&self, 1)
    }

    #[inline(always)]
    fn square_times(self, times: u32) -> Self {
        called_square_times(&self, times)
    }

    #[inline(always)]
    fn select(mask: Mask, yes: Self, mut no: Self) -> Self {
        unsafe {
            let lane = _mm256_set_epi64x(8, 4, 2, 1);
            let chosen = _mm256_and_si256(_mm256_set1_epi64x(i64::from(mask)), lane);
            let chosen = _mm256_cmpeq_epi64(chosen, lane);
            each!(K in [0 1 2 3 4 5 6 7 8 9] {
                no.0[K] = _mm256_blendv_epi8(no.0[K], yes.0[K], chosen);
            });
        }
        no
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        let frozen = self.freeze();
        unsafe {
            let mut any = frozen.0[0];
            each!(K in [1 2 3 4 5 6 7 8 9] {
                any = _mm256_or_si256(any, frozen.0[K]);
            });
            let zero = _mm256_cmpeq_epi64(any, _mm256_setzero_si256());
            _mm256_movemask_pd(_mm256_castsi256_pd(zero)) as Mask
        }
    }

    #[inline(always)]
    fn odds(self) -> Mask {
        let frozen = self.freeze();
        unsafe {
            let sign = _mm256_slli_epi64::<63>(frozen.0[0]);
            _mm256_movemask_pd(_mm256_castsi256_pd(sign)) as Mask
        }
    }
}

impl Avx2 {
    /// The number in 0..p. Takes size 8.
    #[inline(always)]
    fn freeze(self) -> Self {
        let mut number = self;
        unsafe {
            let nineteen = _mm256_set1_epi64x(19);
            // The first pass leaves less than 2^255 + 2^10; where the second carries out, it leaves less than 2^10.
            for _ in 0..2 {
                let over = number.pass();
                number.0[0] = _mm256_add_epi64(number.0[0], _mm256_mul_epu32(over, nineteen));
            }
            // Adding 19 carries out exactly where the number is p or more; that carry is the one p to take off.
            let mut plus = number;
            plus.0[0] = _mm256_add_epi64(plus.0[0], nineteen);
            let over = plus.pass();
            number.0[0] = _mm256_add_epi64(number.0[0], _mm256_mul_epu32(over, nineteen));
            number.pass();
        }
        number
    }

    /// Carries from each limb to the next and gives back what leaves the top.
    #[inline(always)]
    unsafe fn pass(&mut self) -> __m256i {
        let mut carried = _mm256_setzero_si256();
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            let limb = _mm256_add_epi64(self.0[K], carried);
            carried = _mm256_srli_epi64::<{ WIDTH[K] as i32 }>(limb);
            self.0[K] = _mm256_and_si256(limb, _mm256_set1_epi64x((1 << WIDTH[K]) - 1));
        });
        carried
    }
}

/// Brings columns below 2^64 to size 1, along two chains at once: 0 to 5 and 5 round to 1.
#[inline]
#[target_feature(enable = "avx2")]
fn reduced(mut z: [__m256i; 10]) -> Avx2 {
    macro_rules! carry {
        ($from:literal, $to:literal) => {
            z[$to] = _mm256_add_epi64(
                z[$to],
                _mm256_srli_epi64::<{ WIDTH[$from] as i32 }>(z[$from]),
            );
            z[$from] = _mm256_and_si256(z[$from], _mm256_set1_epi64x((1 << WIDTH[$from]) - 1));
        };
    }
    carry!(0, 1);
    carry!(5, 6);
    carry!(1, 2);
    carry!(6, 7);
    carry!(2, 3);
    carry!(7, 8);
    carry!(3, 4);
    carry!(8, 9);
    carry!(4, 5);
    // What leaves the top has up to 39 bits, too many for vpmuludq: 19 = 16 + 2 + 1.
    let over = _mm256_srli_epi64::<25>(z[9]);
    z[9] = _mm256_and_si256(z[9], _mm256_set1_epi64x((1 << 25) - 1));
    let over = _mm256_add_epi64(
        _mm256_add_epi64(over, _mm256_slli_epi64::<1>(over)),
        _mm256_slli_epi64::<4>(over),
    );
    z[0] = _mm256_add_epi64(z[0], over);
    carry!(5, 6);
    carry!(0, 1);
    Avx2(z)
}

// Products are called, not inlined: their operands come from memory anyway, and the loops over points then fit the
// CPU's cache of decoded instructions. A function with target features may be inlined in spite of `inline(never)`, so
// one without them, into which it cannot be inlined, stands between.

#[inline(never)]
fn called_mul(x: &Avx2, y: &Avx2) -> Avx2 {
    unsafe { mul(x, y) }
}

#[inline(never)]
fn called_square_times(x: &Avx2, times: u32) -> Avx2 {
    unsafe { square_times(x, times) }
}

#[target_feature(enable = "avx2")]
fn mul(Avx2(x): &Avx2, Avx2(y): &Avx2) -> Avx2 {
    let mut z = [_mm256_setzero_si256(); 10];
    let mut y_19 = [_mm256_setzero_si256(); 10];
    each!(J in [1 2 3 4 5 6 7 8 9] {
        y_19[J] = _mm256_mul_epu32(y[J], _mm256_set1_epi64x(19));
    });
    each!(I in [0 1 2 3 4 5 6 7 8 9] {
        let twice = _mm256_add_epi64(x[I], x[I]);
        each!(J in [0 1 2 3 4 5 6 7 8 9] {
            let left = if I % 2 == 1 && J % 2 == 1 { twice } else { x[I] };
            let right = if I + J < 10 { y[J] } else { y_19[J] };
            z[(I + J) % 10] = _mm256_add_epi64(z[(I + J) % 10], _mm256_mul_epu32(left, right));
        });
    });
    reduced(z)
}

#[target_feature(enable = "avx2")]
fn square_times(x: &Avx2, times: u32) -> Avx2 {
    let mut power = *x;
    for _ in 0..times {
        let Avx2(x) = power;
        let mut z = [_mm256_setzero_si256(); 10];
        let mut twice = x;
        let mut x_19 = x;
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            twice[K] = _mm256_add_epi64(x[K], x[K]);
        });
        each!(K in [5 6 7 8 9] {
            x_19[K] = _mm256_mul_epu32(x[K], _mm256_set1_epi64x(19));
        });
        each!(I in [0 1 2 3 4 5 6 7 8 9] {
            let four_times = _mm256_add_epi64(twice[I], twice[I]);
            each!(J in [0 1 2 3 4 5 6 7 8 9] {
                if I <= J {
                    let odd = I % 2 == 1 && J % 2 == 1;
                    let left = match (I == J, odd) {
                        (true, false) => x[I],
                        (false, true) => four_times,
                        _ => twice[I],
                    };
                    let right = if I + J < 10 { x[J] } else { x_19[J] };
                    z[(I + J) % 10] = _mm256_add_epi64(z[(I + J) % 10], _mm256_mul_epu32(left, right));
                }
            });
        });
        power = reduced(z);
    }
    power
}
