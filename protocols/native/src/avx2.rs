//! Four numbers at a time in AVX2 registers with FMA: five limbs of 51 bits, kept as whole numbers in doubles.
//!
//! AVX2 multiplies integers of 32 bits only, but a double holds whole numbers up to 2^53, and a fused multiply-add
//! rounds a product of two once. So a product is taken apart in two steps, exactly (the idea is Dekker's, used so by
//! Emmart, Zheng and Weems, ARITH 2018): with C = 3 2^102, whose unit in the last place is 2^51, C + ab rounds
//! to C + 2^51 h, and then ab - 2^51 h, at most 2^50 either way, comes out without rounding. Added to 3 2^51, whose
//! unit in the last place is 1, it can be summed as an integer in the bits of the double; so can h in the bits of C.
//!
//! Limbs have a sign. A product's are at most 2^50 + 2^12 (*size* 1, see `field`). C + ab must not leave C's binade,
//! so |ab| < 2^102: the product of the sizes is at most 3 (1 + 2^-36) < 4. A difference needs no bias.
//!
//! All of this takes rounding to nearest, which is how every process starts; a thread that has another mode is given
//! curve25519-dalek instead (`rounds_to_nearest`).

use crate::field::{bits, each, put_bits, Field, Mask, Words, MAX_LANES};
use core::arch::asm;
use core::arch::x86_64::*;
use core::hint::black_box;

#[derive(Clone, Copy)]
pub struct Avx2([__m256d; 5]);

const START: [usize; 5] = [0, 51, 102, 153, 204];
const LOW_51: i64 = (1 << 51) - 1;

const TWO_51: f64 = (1u64 << 51) as f64;
/// C, whose unit in the last place is 2^51.
const HIGH: f64 = 3.0 * TWO_51 * TWO_51;
/// Its unit in the last place is 1.
const LOW: f64 = 3.0 * TWO_51;

/// Whether this thread rounds to nearest: three quarters of a unit in the last place count as one, up and down.
pub fn rounds_to_nearest() -> bool {
    let above = 1.0 + black_box(0.75 * f64::EPSILON);
    let below = -1.0 - black_box(0.75 * f64::EPSILON);
    above == 1.0 + f64::EPSILON && below == -1.0 - f64::EPSILON
}

// SAFETY, for every block below: the intrinsics need AVX2 and FMA and nothing else. This type is used by
// `kernel::vector` alone, whose entry functions run only where the CPU has both.

impl Field for Avx2 {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(words: Words) -> Self {
        let mut limbs = unsafe { [_mm256_setzero_pd(); 5] };
        each!(K in [0 1 2 3 4] {
            limbs[K] = unsafe { _mm256_set1_pd(bits(&words, START[K], 51) as f64) };
        });
        Avx2(limbs).carry()
    }

    #[inline(always)]
    fn load(words: &[Words; MAX_LANES]) -> Self {
        let mut limbs = unsafe { [_mm256_setzero_pd(); 5] };
        each!(K in [0 1 2 3 4] {
            let limb = |lane: usize| bits(&words[lane], START[K], 51) as f64;
            limbs[K] = unsafe { _mm256_set_pd(limb(3), limb(2), limb(1), limb(0)) };
        });
        Avx2(limbs).carry()
    }

    #[inline(always)]
    fn store(self) -> [Words; MAX_LANES] {
        let frozen = self.freeze();
        let mut words = [[0; 4]; MAX_LANES];
        each!(K in [0 1 2 3 4] {
            let mut limbs = [0u64; 4];
            unsafe { _mm256_storeu_si256(limbs.as_mut_ptr().cast(), frozen[K]) };
            each!(LANE in [0 1 2 3] {
                put_bits(&mut words[LANE], START[K], 51, limbs[LANE]);
            });
        });
        words
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4] {
            self.0[K] = unsafe { _mm256_add_pd(self.0[K], other.0[K]) };
        });
        self
    }

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4] {
            self.0[K] = unsafe { _mm256_sub_pd(self.0[K], other.0[K]) };
        });
        self
    }

    #[inline(always)]
    fn sub_wide(self, other: Self) -> Self {
        self.sub(other)
    }

    #[inline(always)]
    fn carry(self) -> Self {
        let mut over = self.0;
        let mut low = self.0;
        unsafe {
            each!(K in [0 1 2 3 4] {
                // The nearest multiple of 2^51: what C's last place can hold.
                over[K] = _mm256_add_pd(self.0[K], _mm256_set1_pd(HIGH));
                over[K] = _mm256_sub_pd(over[K], _mm256_set1_pd(HIGH));
                low[K] = _mm256_sub_pd(self.0[K], over[K]);
            });
            each!(K in [0 1 2 3] {
                low[K + 1] = _mm256_fmadd_pd(over[K], _mm256_set1_pd(1.0 / TWO_51), low[K + 1]);
            });
            low[0] = _mm256_fmadd_pd(over[4], _mm256_set1_pd(19.0 / TWO_51), low[0]);
        }
        Avx2(low)
    }

    #[inline(always)]
    fn ready(self) -> Self {
        self
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        called_product(&self, &other)
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
            let chosen = _mm256_castsi256_pd(_mm256_cmpeq_epi64(chosen, lane));
            each!(K in [0 1 2 3 4] {
                no.0[K] = _mm256_blendv_pd(no.0[K], yes.0[K], chosen);
            });
        }
        no
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        let [a, b, c, d, e] = self.freeze();
        unsafe {
            let any = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
            let zero = _mm256_cmpeq_epi64(_mm256_or_si256(any, e), _mm256_setzero_si256());
            _mm256_movemask_pd(_mm256_castsi256_pd(zero)) as Mask
        }
    }

    #[inline(always)]
    fn odds(self) -> Mask {
        let lowest = self.freeze()[0];
        unsafe {
            let sign = _mm256_slli_epi64::<63>(lowest);
            _mm256_movemask_pd(_mm256_castsi256_pd(sign)) as Mask
        }
    }
}

impl Avx2 {
    /// The number in 0..p as integers of 51 bits. Takes size 8.
    #[inline(always)]
    fn freeze(self) -> [__m256i; 5] {
        let Avx2(limbs) = self.carry();
        unsafe {
            let mut number = [_mm256_setzero_si256(); 5];
            each!(K in [0 1 2 3 4] {
                // 2p more, so that no limb is negative.
                let twice_p = if K == 0 { 2 * (LOW_51 - 18) } else { 2 * LOW_51 };
                let limb = _mm256_castpd_si256(_mm256_add_pd(limbs[K], _mm256_set1_pd(LOW)));
                let lift = _mm256_set1_epi64x(twice_p - LOW.to_bits() as i64);
                number[K] = _mm256_add_epi64(limb, lift);
            });
            // The first pass leaves less than 2^255 + 2^6; where the second carries out, it leaves less than 2^6.
            for _ in 0..2 {
                let over = pass(&mut number);
                number[0] = _mm256_add_epi64(number[0], times_19(over));
            }
            // Adding 19 carries out exactly where the number is p or more; that carry is the one p to take off.
            let mut plus = number;
            plus[0] = _mm256_add_epi64(plus[0], _mm256_set1_epi64x(19));
            let over = pass(&mut plus);
            number[0] = _mm256_add_epi64(number[0], times_19(over));
            pass(&mut number);
            number
        }
    }
}

/// Carries from each limb to the next and gives back what leaves the top.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn pass(number: &mut [__m256i; 5]) -> __m256i {
    let mut carried = _mm256_setzero_si256();
    each!(K in [0 1 2 3 4] {
        let limb = _mm256_add_epi64(number[K], carried);
        carried = _mm256_srli_epi64::<51>(limb);
        number[K] = _mm256_and_si256(limb, _mm256_set1_epi64x(LOW_51));
    });
    carried
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn times_19(lanes: __m256i) -> __m256i {
    let mut sixteen = _mm256_slli_epi64::<4>(lanes);
    // Hides the shift: the compiler would make a multiplication of all this, out of 32-bit ones.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) sixteen, options(pure, nomem, nostack, preserves_flags));
    }
    let thrice = _mm256_add_epi64(lanes, _mm256_add_epi64(lanes, lanes));
    _mm256_add_epi64(thrice, sixteen)
}

/// What columns start from: less the bits of the constants that the halves of products are added to, and for the five
/// low columns 2^58 + 2^50, so that they are positive and a shift rounds them to the nearest multiple of 2^51.
const fn start(column: usize, lows: i64, highs: i64) -> i64 {
    let bits = (LOW.to_bits() as i64).wrapping_mul(lows);
    let bits = bits.wrapping_add((HIGH.to_bits() as i64).wrapping_mul(highs));
    (if column < 5 {
        POSITIVE + (1 << 50)
    } else {
        0i64
    })
    .wrapping_sub(bits)
}

const POSITIVE: i64 = 1 << 58;

/// Columns of whole numbers, column k weighing 2^(51 k), with size 1.
///
/// Column k is a sum of at most five low halves, each at most 2^50, and five high halves, each below 2^51: below
/// 2^53.3. With 19 times column k + 5 it stays below 2^57.7, less than POSITIVE. What is carried on is below 2^8.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn reduced(column: [__m256i; 10]) -> Avx2 {
    let mut low = [_mm256_setzero_si256(); 5];
    let mut over = [_mm256_setzero_si256(); 5];
    each!(K in [0 1 2 3 4] {
        let folded = _mm256_add_epi64(column[K], times_19(column[K + 5]));
        low[K] = _mm256_and_si256(folded, _mm256_set1_epi64x(LOW_51));
        over[K] = _mm256_srli_epi64::<51>(folded);
    });
    let over_4 = _mm256_mul_epu32(over[4], _mm256_set1_epi64x(19));
    let mut limbs = [_mm256_setzero_pd(); 5];
    each!(K in [0 1 2 3 4] {
        let (carried, weight) = if K == 0 { (over_4, 19) } else { (over[(K + 4) % 5], 1) };
        let two_52 = 2.0 * TWO_51;
        let limb = _mm256_or_si256(low[K], _mm256_set1_epi64x(two_52.to_bits() as i64));
        let limb = _mm256_castsi256_pd(_mm256_add_epi64(limb, carried));
        let lifted = two_52 + TWO_51 / 2.0 + (weight * (POSITIVE >> 51)) as f64;
        limbs[K] = _mm256_sub_pd(limb, _mm256_set1_pd(lifted));
    });
    Avx2(limbs)
}

/// Adds the halves of $x $y to columns $at and $at + 1.
///
/// The empty instruction makes the next product wait for these sums in the order of the code. Left alone the compiler
/// sums all products at the end and keeps them in memory until then, which takes half as long again.
macro_rules! add_product {
    ($column:ident, $at:expr, $x:ident, $y:expr) => {
        let high = _mm256_fmadd_pd($x, $y, _mm256_set1_pd(HIGH));
        let rest = _mm256_sub_pd(_mm256_set1_pd(HIGH + LOW), high);
        let low = _mm256_fmadd_pd($x, $y, rest);
        $column[$at] = _mm256_add_epi64($column[$at], _mm256_castpd_si256(low));
        $column[$at + 1] = _mm256_add_epi64($column[$at + 1], _mm256_castpd_si256(high));
        unsafe {
            asm!(
                "/* {0} {1} {2} */",
                inout(ymm_reg) $column[$at],
                inout(ymm_reg) $column[$at + 1],
                inout(ymm_reg) $x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    };
}

// Products are called, not inlined: the loops over points then fit the CPU's cache of decoded instructions. A function
// with target features may be inlined in spite of `inline(never)`, so one without them, into which it cannot be
// inlined, stands between.

#[inline(never)]
fn called_product(x: &Avx2, y: &Avx2) -> Avx2 {
    unsafe { product(x, y) }
}

#[inline(never)]
fn called_square_times(x: &Avx2, times: u32) -> Avx2 {
    unsafe { square_times(x, times) }
}

#[target_feature(enable = "avx2,fma")]
#[allow(unused_assignments)] // of `left` after its last product
fn product(Avx2(x): &Avx2, Avx2(y): &Avx2) -> Avx2 {
    const PAIRS: [i64; 11] = [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0];
    let mut column = [_mm256_setzero_si256(); 10];
    each!(K in [0 1 2 3 4 5 6 7 8 9] {
        column[K] = _mm256_set1_epi64x(start(K, PAIRS[K + 1], PAIRS[K]));
    });
    each!(I in [0 1 2 3 4] {
        let mut left = x[I];
        each!(J in [0 1 2 3 4] {
            add_product!(column, I + J, left, y[J]);
        });
    });
    reduced(column)
}

#[target_feature(enable = "avx2,fma")]
#[allow(unused_assignments)] // of `left` after its last product
fn square_times(x: &Avx2, times: u32) -> Avx2 {
    const PAIRS: [i64; 11] = [0, 1, 1, 2, 2, 3, 2, 2, 1, 1, 0];
    let mut power = *x;
    for _ in 0..times {
        let Avx2(x) = power;
        let mut column = [_mm256_setzero_si256(); 10];
        each!(K in [0 1 2 3 4 5 6 7 8 9] {
            column[K] = _mm256_set1_epi64x(start(K, PAIRS[K + 1], PAIRS[K]));
        });
        each!(I in [0 1 2 3 4] {
            let mut left = x[I];
            each!(J in [0 1 2 3 4] {
                if J == I + 1 {
                    left = _mm256_add_pd(left, left);
                }
                if I <= J {
                    add_product!(column, I + J, left, x[J]);
                }
            });
        });
        power = reduced(column);
    }
    power
}
