//! Eight numbers at a time with AVX-512 IFMA: five limbs of 51 bits, each in a 64-bit lane.
//!
//! vpmadd52luq and vpmadd52huq multiply the low 52 bits of each lane and add the low or the high 52 bits of the product
//! to a third register. A product's limbs lie below 2^51 + 2^14 (*size* 1, see `field`), so a sum or a difference of
//! two has more than 52 bits and is carried before it is multiplied (`ready`); 2p less a product has not, and is not.
//!
//! The algorithm is written over `Lanes`, so that all of it but the instructions themselves is tested on any CPU.

use crate::field::{bits, each, put_bits, Field, Mask, Words, MAX_LANES};

/// Eight unsigned 64-bit lanes.
pub trait Lanes: Copy {
    fn splat(value: u64) -> Self;
    fn load(values: [u64; 8]) -> Self;
    fn store(self) -> [u64; 8];
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn shift_left<const BITS: u32>(self) -> Self;
    fn shift_right<const BITS: u32>(self) -> Self;
    /// self + the low 52 bits of the product of the low 52 bits.
    fn add_product_low(self, left: Self, right: Self) -> Self;
    /// self + the bits from 52 on of the product of the low 52 bits.
    fn add_product_high(self, left: Self, right: Self) -> Self;
    fn select(mask: Mask, yes: Self, no: Self) -> Self;
    fn zeros(self) -> Mask;

    /// `product` and `square_times` below, compiled once for these lanes: inlined everywhere they take the compiler
    /// minutes, and the loops over points no longer fit the CPU's cache of instructions.
    fn called_product(left: &Ifma<Self>, right: &Ifma<Self>) -> Ifma<Self>;
    fn called_square_times(number: &Ifma<Self>, times: u32) -> Ifma<Self>;
}

#[derive(Clone, Copy)]
pub struct Ifma<L>([L; 5]);

const START: [usize; 5] = [0, 51, 102, 153, 204];
const LOW_51: u64 = (1 << 51) - 1;

/// Limb k of 2p.
const fn twice_p(k: usize) -> u64 {
    if k == 0 {
        (1 << 52) - 38
    } else {
        (1 << 52) - 2
    }
}

impl<L: Lanes> Field for Ifma<L> {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(words: Words) -> Self {
        let mut limbs = [L::splat(0); 5];
        each!(K in [0 1 2 3 4] {
            limbs[K] = L::splat(bits(&words, START[K], 51));
        });
        Ifma(limbs)
    }

    #[inline(always)]
    fn load(words: &[Words; MAX_LANES]) -> Self {
        let mut limbs = [L::splat(0); 5];
        each!(K in [0 1 2 3 4] {
            let mut values = [0; 8];
            for lane in 0..8 {
                values[lane] = bits(&words[lane], START[K], 51);
            }
            limbs[K] = L::load(values);
        });
        Ifma(limbs)
    }

    #[inline(always)]
    fn store(self) -> [Words; MAX_LANES] {
        let frozen = self.freeze();
        let mut words = [[0; 4]; MAX_LANES];
        each!(K in [0 1 2 3 4] {
            let values = frozen.0[K].store();
            for lane in 0..8 {
                put_bits(&mut words[lane], START[K], 51, values[lane]);
            }
        });
        words
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4] {
            self.0[K] = self.0[K].add(other.0[K]);
        });
        self
    }

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4] {
            self.0[K] = self.0[K].add(L::splat(twice_p(K))).sub(other.0[K]);
        });
        self
    }

    #[inline(always)]
    fn sub_wide(mut self, other: Self) -> Self {
        each!(K in [0 1 2 3 4] {
            self.0[K] = self.0[K].add(L::splat(2 * twice_p(K))).sub(other.0[K]);
        });
        self
    }

    #[inline(always)]
    fn carry(self) -> Self {
        let mut low = self;
        each!(K in [0 1 2 3 4] {
            low.0[K] = self.0[K].and(L::splat(LOW_51));
        });
        each!(K in [0 1 2 3] {
            low.0[K + 1] = low.0[K + 1].add(self.0[K].shift_right::<51>());
        });
        low.0[0] = low.0[0].add(times_19(self.0[4].shift_right::<51>()));
        low
    }

    #[inline(always)]
    fn ready(self) -> Self {
        self.carry()
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        L::called_product(&self, &other)
    }

    #[inline(always)]
    fn square(self) -> Self {
        L::called_square_times(&self, 1)
    }

    #[inline(always)]
    fn square_times(self, times: u32) -> Self {
        L::called_square_times(&self, times)
    }

    #[inline(always)]
    fn select(mask: Mask, yes: Self, mut no: Self) -> Self {
        each!(K in [0 1 2 3 4] {
            no.0[K] = L::select(mask, yes.0[K], no.0[K]);
        });
        no
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        let [a, b, c, d, e] = self.freeze().0;
        a.or(b).or(c.or(d)).or(e).zeros()
    }

    #[inline(always)]
    fn odds(self) -> Mask {
        !self.freeze().0[0].and(L::splat(1)).zeros()
    }
}

impl<L: Lanes> Ifma<L> {
    /// The number in 0..p. Takes size 8.
    #[inline(always)]
    fn freeze(self) -> Self {
        let mut number = self;
        // The first pass leaves less than 2^255 + 2^9; where the second carries out, it leaves less than 2^9.
        for _ in 0..2 {
            let over = number.pass();
            number.0[0] = number.0[0].add(times_19(over));
        }
        // Adding 19 carries out exactly where the number is p or more; that carry is the one p to take off.
        let mut plus = number;
        plus.0[0] = plus.0[0].add(L::splat(19));
        let over = plus.pass();
        number.0[0] = number.0[0].add(times_19(over));
        number.pass();
        number
    }

    /// Carries from each limb to the next and gives back what leaves the top.
    #[inline(always)]
    fn pass(&mut self) -> L {
        let mut carried = L::splat(0);
        each!(K in [0 1 2 3 4] {
            let limb = self.0[K].add(carried);
            carried = limb.shift_right::<51>();
            self.0[K] = limb.and(L::splat(LOW_51));
        });
        carried
    }
}

// Column k of a product sums the low halves of x[i] y[j] for i + j = k and twice the high halves for i + j = k - 1:
// those weigh 2^52, columns 2^51. The high ones come first, so that one addition doubles their sum.

#[inline(always)]
fn product<L: Lanes>(Ifma(x): &Ifma<L>, Ifma(y): &Ifma<L>) -> Ifma<L> {
    let mut column = [L::splat(0); 10];
    each!(I in [0 1 2 3 4] {
        each!(J in [0 1 2 3 4] {
            column[I + J + 1] = column[I + J + 1].add_product_high(x[I], y[J]);
        });
    });
    each!(K in [1 2 3 4 5 6 7 8 9] {
        column[K] = column[K].add(column[K]);
    });
    each!(I in [0 1 2 3 4] {
        each!(J in [0 1 2 3 4] {
            column[I + J] = column[I + J].add_product_low(x[I], y[J]);
        });
    });
    reduced(column)
}

/// Of the products x[i] x[j] with i below j, each counts twice; twice a limb would not fit 52 bits, so the sums are
/// doubled.
#[inline(always)]
fn square_times<L: Lanes>(number: &Ifma<L>, times: u32) -> Ifma<L> {
    let mut power = *number;
    for _ in 0..times {
        let Ifma(x) = power;
        let mut column = [L::splat(0); 10];
        each!(I in [0 1 2 3 4] {
            each!(J in [0 1 2 3 4] {
                if I < J {
                    column[I + J + 1] = column[I + J + 1].add_product_high(x[I], x[J]);
                }
            });
        });
        each!(K in [2 3 4 5 6 7 8] {
            column[K] = column[K].add(column[K]);
        });
        each!(I in [0 1 2 3 4] {
            column[2 * I + 1] = column[2 * I + 1].add_product_high(x[I], x[I]);
            each!(J in [0 1 2 3 4] {
                if I < J {
                    column[I + J] = column[I + J].add_product_low(x[I], x[J]);
                }
            });
        });
        each!(K in [1 2 3 4 5 6 7 8 9] {
            column[K] = column[K].add(column[K]);
        });
        each!(I in [0 1 2 3 4] {
            column[2 * I] = column[2 * I].add_product_low(x[I], x[I]);
        });
        power = reduced(column);
    }
    power
}

/// 19 times each lane, which must lie below 2^59.7.
#[inline(always)]
fn times_19<L: Lanes>(lanes: L) -> L {
    lanes
        .add(lanes.shift_left::<1>())
        .add(lanes.shift_left::<4>())
}

/// Columns, column k weighing 2^(51 k), with size 1.
///
/// Column k is a sum of at most five low halves and twice five high halves of products, each below 2^52: below 2^56.
/// With 19 times column k + 5 it stays below 2^60.4, so that what is carried on is below 2^10, and 19 times that below
/// 2^14.
#[inline(always)]
fn reduced<L: Lanes>(column: [L; 10]) -> Ifma<L> {
    let mut folded = [column[0]; 5];
    each!(K in [0 1 2 3 4] {
        folded[K] = column[K].add(times_19(column[K + 5]));
    });
    Ifma(folded).carry()
}

/// The lanes without the instructions, for tests and for reading.
#[derive(Clone, Copy)]
pub struct Emulated([u64; 8]);

impl Emulated {
    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        for (lane, other) in self.0.iter_mut().zip(other.0) {
            *lane = f(*lane, other);
        }
        self
    }
}

#[inline(always)]
fn product_of_52_bits(left: u64, right: u64) -> u128 {
    let low_52 = (1 << 52) - 1;
    u128::from(left & low_52) * u128::from(right & low_52)
}

impl Lanes for Emulated {
    #[inline(never)]
    fn splat(value: u64) -> Self {
        Emulated([value; 8])
    }

    #[inline(never)]
    fn load(values: [u64; 8]) -> Self {
        Emulated(values)
    }

    #[inline(never)]
    fn store(self) -> [u64; 8] {
        self.0
    }

    #[inline(never)]
    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    #[inline(never)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_sub)
    }

    #[inline(never)]
    fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    #[inline(never)]
    fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    #[inline(never)]
    fn shift_left<const BITS: u32>(self) -> Self {
        self.zip(self, |a, _| a << BITS)
    }

    #[inline(never)]
    fn shift_right<const BITS: u32>(self) -> Self {
        self.zip(self, |a, _| a >> BITS)
    }

    #[inline(never)]
    fn add_product_low(self, left: Self, right: Self) -> Self {
        let low = left.zip(right, |a, b| {
            (product_of_52_bits(a, b) & ((1 << 52) - 1)) as u64
        });
        self.add(low)
    }

    #[inline(never)]
    fn add_product_high(self, left: Self, right: Self) -> Self {
        let high = left.zip(right, |a, b| (product_of_52_bits(a, b) >> 52) as u64);
        self.add(high)
    }

    #[inline(never)]
    fn select(mask: Mask, yes: Self, no: Self) -> Self {
        let mut chosen = no;
        for lane in 0..8 {
            if mask >> lane & 1 == 1 {
                chosen.0[lane] = yes.0[lane];
            }
        }
        chosen
    }

    #[inline(never)]
    fn zeros(self) -> Mask {
        (0..8).fold(0, |mask, lane| mask | u8::from(self.0[lane] == 0) << lane)
    }

    #[inline(never)]
    fn called_product(left: &Ifma<Self>, right: &Ifma<Self>) -> Ifma<Self> {
        product(left, right)
    }

    #[inline(never)]
    fn called_square_times(number: &Ifma<Self>, times: u32) -> Ifma<Self> {
        square_times(number, times)
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    use super::{Ifma, Lanes, Mask};
    use core::arch::asm;
    use core::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct Avx512(__m512i);

    // SAFETY, for every block below: the intrinsics need AVX-512 F and IFMA and nothing else. This type is used by
    // `kernel::ifma` alone, whose entry functions run only where the CPU has both.
    impl Lanes for Avx512 {
        #[inline(always)]
        fn splat(value: u64) -> Self {
            Avx512(unsafe { _mm512_set1_epi64(value as i64) })
        }

        #[inline(always)]
        fn load(values: [u64; 8]) -> Self {
            Avx512(unsafe { _mm512_loadu_si512(values.as_ptr().cast()) })
        }

        #[inline(always)]
        fn store(self) -> [u64; 8] {
            let mut values = [0; 8];
            unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), self.0) };
            values
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_add_epi64(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_sub_epi64(self.0, other.0) })
        }

        #[inline(always)]
        fn and(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_and_si512(self.0, other.0) })
        }

        #[inline(always)]
        fn or(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_or_si512(self.0, other.0) })
        }

        #[inline(always)]
        fn shift_left<const BITS: u32>(self) -> Self {
            Avx512(unsafe { opaque(_mm512_slli_epi64::<BITS>(self.0)) })
        }

        #[inline(always)]
        fn shift_right<const BITS: u32>(self) -> Self {
            Avx512(unsafe { _mm512_srli_epi64::<BITS>(self.0) })
        }

        #[inline(always)]
        fn add_product_low(self, left: Self, right: Self) -> Self {
            Avx512(unsafe { _mm512_madd52lo_epu64(self.0, left.0, right.0) })
        }

        #[inline(always)]
        fn add_product_high(self, left: Self, right: Self) -> Self {
            Avx512(unsafe { _mm512_madd52hi_epu64(self.0, left.0, right.0) })
        }

        #[inline(always)]
        fn select(mask: Mask, yes: Self, no: Self) -> Self {
            Avx512(unsafe { _mm512_mask_blend_epi64(mask, no.0, yes.0) })
        }

        #[inline(always)]
        fn zeros(self) -> Mask {
            unsafe { _mm512_testn_epi64_mask(self.0, self.0) }
        }

        // A function with target features may be inlined in spite of `inline(never)`, so these stand between.

        #[inline(never)]
        fn called_product(left: &Ifma<Self>, right: &Ifma<Self>) -> Ifma<Self> {
            unsafe { product(left, right) }
        }

        #[inline(never)]
        fn called_square_times(number: &Ifma<Self>, times: u32) -> Ifma<Self> {
            unsafe { square_times(number, times) }
        }
    }

    /// The same lanes. The compiler would make a multiplication of two shifts and additions, out of 32-bit ones.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn opaque(mut lanes: __m512i) -> __m512i {
        unsafe {
            asm!("/* {0} */", inout(zmm_reg) lanes, options(pure, nomem, nostack, preserves_flags));
        }
        lanes
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn product(left: &Ifma<Avx512>, right: &Ifma<Avx512>) -> Ifma<Avx512> {
        super::product(left, right)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn square_times(number: &Ifma<Avx512>, times: u32) -> Ifma<Avx512> {
        super::square_times(number, times)
    }
}
