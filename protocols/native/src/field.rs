//! What the vector kernels compute with: numbers modulo p = 2^255 - 19, an independent one in each lane of a vector.
//!
//! A number's *size* bounds its limbs, in units of what a product gives: a product has size 1, a sum the sizes' sum. A
//! difference has the sizes' sum where limbs have a sign, else the bias more that keeps them positive: 2 for `sub`, 4
//! for `sub_wide`. Each method says which sizes it takes; that the point formulas keep to them is checked by running
//! them on sizes instead of numbers (`ristretto::tests`), so for all inputs at once.

/// 256 bits as little-endian words.
pub type Words = [u64; 4];

/// One bit per lane, lane 0 lowest.
pub type Mask = u8;

/// The most lanes that a kernel has.
pub const MAX_LANES: usize = 8;

pub trait Field: Copy {
    const LANES: usize;

    /// The same number in each lane.
    fn splat(words: Words) -> Self;
    /// One number per lane, below 2^256; bit 255 is left out.
    fn load(words: &[Words; MAX_LANES]) -> Self;
    /// The number in 0..p of each lane. Takes size 8.
    fn store(self) -> [Words; MAX_LANES];

    fn add(self, other: Self) -> Self;
    /// self - other (+ 2p). Takes size 1 on the right.
    fn sub(self, other: Self) -> Self;
    /// self - other (+ 4p). Takes size 3 on the right.
    fn sub_wide(self, other: Self) -> Self;
    /// The same number with size 1. Takes size 8.
    fn carry(self) -> Self;
    /// The same number as `mul` takes it: carried where a multiplier has no bits to spare.
    fn ready(self) -> Self;

    /// Takes two whose sizes' product is at most 3, ready.
    fn mul(self, other: Self) -> Self;
    /// Takes size 1.
    fn square(self) -> Self;
    /// self^(2^times), times at least 1. Takes size 1.
    fn square_times(self, times: u32) -> Self;

    /// `yes` in the lanes of the mask, `no` in the others.
    fn select(mask: Mask, yes: Self, no: Self) -> Self;
    /// The lanes that hold 0 modulo p. Takes size 8.
    fn zeros(self) -> Mask;
    /// The lanes whose number in 0..p is odd: RFC 9496 calls these negative. Takes size 8.
    fn odds(self) -> Mask;

    /// -self (+ 2p), ready all the same. Takes size 1.
    #[inline(always)]
    fn neg(self) -> Self {
        Self::splat(ZERO).sub(self)
    }

    /// The one of self and -self that is even. Takes size 1.
    #[inline(always)]
    fn abs(self) -> Self {
        Self::select(self.odds(), self.neg(), self)
    }

    /// self^(2^250 - 1) and self^11, by the usual chain of 2^k - 1. Takes size 1.
    #[inline(always)]
    fn power_chain(self) -> (Self, Self) {
        let x2 = self.square();
        let x9 = x2.square_times(2).mul(self);
        let x11 = x9.mul(x2);
        // ones_k is self^(2^k - 1).
        let ones_5 = x11.square().mul(x9);
        let ones_10 = ones_5.square_times(5).mul(ones_5);
        let ones_20 = ones_10.square_times(10).mul(ones_10);
        let ones_40 = ones_20.square_times(20).mul(ones_20);
        let ones_50 = ones_40.square_times(10).mul(ones_10);
        let ones_100 = ones_50.square_times(50).mul(ones_50);
        let ones_200 = ones_100.square_times(100).mul(ones_100);
        (ones_200.square_times(50).mul(ones_50), x11)
    }

    /// 1/self, and 0 for 0. Takes size 1.
    #[inline(always)]
    fn invert(self) -> Self {
        let (ones_250, x11) = self.power_chain();
        ones_250.square_times(5).mul(x11) // 2^255 - 2^5 + 11 = p - 2
    }

    /// Where u/v is a square, its even root; else that of i u/v, and the lane is out of the mask.   RFC 9496, 4.2.
    ///
    /// Takes size 1.
    #[inline(always)]
    fn sqrt_ratio(u: Self, v: Self) -> (Mask, Self) {
        let v3 = v.square().mul(v);
        let v7 = v3.square().mul(v);
        let base = u.mul(v7);
        let power = base.power_chain().0.square_times(2).mul(base); // base^(2^252 - 3)
        let root = u.mul(v3).mul(power);
        let check = root.square().mul(v);
        let i = Self::splat(I);
        let right = check.sub_wide(u).zeros();
        let opposite = check.add(u).zeros();
        let opposite_i = check.add(u.mul(i)).zeros();
        let root = Self::select(opposite | opposite_i, root.mul(i), root);
        (right | opposite, root.abs())
    }
}

pub const ZERO: Words = [0; 4];
pub const ONE: Words = [1, 0, 0, 0];
pub const TWO: Words = [2, 0, 0, 0];
pub const MINUS_ONE: Words = [P[0] - 1, P[1], P[2], P[3]];
pub const P: Words = [
    0xffff_ffff_ffff_ffed,
    0xffff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
    0x7fff_ffff_ffff_ffff,
];

// RFC 9496, 4.1. The tests below hold each to the equation that defines it.
pub const D: Words = [
    0x75eb_4dca_1359_78a3,
    0x0070_0a4d_4141_d8ab,
    0x8cc7_4079_7779_e898,
    0x5203_6cee_2b6f_fe73,
];
pub const TWICE_D: Words = [
    0xebd6_9b94_26b2_f159,
    0x00e0_149a_8283_b156,
    0x198e_80f2_eef3_d130,
    0x2406_d9dc_56df_fce7,
];
/// The even root of -1.
pub const I: Words = [
    0xc4ee_1b27_4a0e_a0b0,
    0x2f43_1806_ad2f_e478,
    0x2b4d_0099_3dfb_d7a7,
    0x2b83_2480_4fc1_df0b,
];
pub const SQRT_AD_MINUS_ONE: Words = [
    0x7e97_f6a0_497b_2e1b,
    0xaf9d_8e0c_1b78_54bd,
    0x0f3c_fcc9_31f5_d1fd,
    0x3769_31bf_2b83_48ac,
];
pub const INVSQRT_A_MINUS_D: Words = [
    0x99c8_fdaa_805d_40ea,
    0x9d2f_1617_5a41_72be,
    0x16c2_7b91_fe01_d840,
    0x786c_8905_cfaf_fca2,
];
pub const ONE_MINUS_D_SQUARED: Words = [
    0xe27c_09c1_945f_c176,
    0x2c81_a138_cd5e_350f,
    0x9994_abdd_be70_dfe4,
    0x0290_72a8_b2b3_e0d7,
];
pub const D_MINUS_ONE_SQUARED: Words = [
    0x31ad_5aaa_44ed_4d20,
    0xd29e_4a2c_b01e_1999,
    0x4cdc_d32f_529b_4eeb,
    0x5968_b37a_f66c_2241,
];

/// Bits at..at + width of a number, width below 64; what lies beyond 256 reads as 0.
#[inline(always)]
pub const fn bits(words: &Words, at: usize, width: usize) -> u64 {
    let (word, shift) = (at / 64, at % 64);
    let mut value = words[word] >> shift;
    if shift + width > 64 && word < 3 {
        value |= words[word + 1] << (64 - shift);
    }
    value & ((1 << width) - 1)
}

/// Puts a limb into words that are 0 there.
#[inline(always)]
pub fn put_bits(words: &mut Words, at: usize, width: usize, limb: u64) {
    let (word, shift) = (at / 64, at % 64);
    words[word] |= limb << shift;
    if shift + width > 64 {
        words[word + 1] |= limb >> (64 - shift);
    }
}

/// Repeats a block with a constant for each index, so that every limb has a register of its own.
macro_rules! each {
    ($index:ident in [$($value:literal)*] $body:block) => {
        $({ const $index: usize = $value; $body })*
    };
}
pub(crate) use each;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifma::{Emulated, Ifma};

    /// Schoolbook multiplication modulo p, one word at a time: what the fields are held against.
    fn product(x: Words, y: Words) -> Words {
        let mut wide = [0u64; 8];
        for i in 0..4 {
            let mut carry = 0u128;
            for j in 0..4 {
                let sum = u128::from(x[i]) * u128::from(y[j]) + u128::from(wide[i + j]) + carry;
                wide[i + j] = sum as u64;
                carry = sum >> 64;
            }
            wide[i + 4] = carry as u64;
        }
        reduced(wide)
    }

    /// 2^256 = 38 modulo p.
    fn reduced(mut wide: [u64; 8]) -> Words {
        for _ in 0..3 {
            let mut carry = 0u128;
            for i in 0..4 {
                let sum = u128::from(wide[i]) + 38 * u128::from(wide[i + 4]) + carry;
                wide[i] = sum as u64;
                carry = sum >> 64;
            }
            wide[4..].fill(0);
            wide[4] = carry as u64;
        }
        let mut words = [wide[0], wide[1], wide[2], wide[3]];
        while let Some(less) = less_p(words) {
            words = less;
        }
        words
    }

    fn less_p(words: Words) -> Option<Words> {
        let mut less = ZERO;
        let mut borrow = false;
        for i in 0..4 {
            let (first, one) = words[i].overflowing_sub(P[i]);
            let (second, two) = first.overflowing_sub(u64::from(borrow));
            less[i] = second;
            borrow = one || two;
        }
        (!borrow).then_some(less)
    }

    fn sum(x: Words, y: Words) -> Words {
        let mut wide = [0; 8];
        let mut carry = 0u128;
        for i in 0..4 {
            let sum = u128::from(x[i]) + u128::from(y[i]) + carry;
            wide[i] = sum as u64;
            carry = sum >> 64;
        }
        wide[4] = carry as u64;
        reduced(wide)
    }

    fn opposite(x: Words) -> Words {
        product(x, MINUS_ONE)
    }

    /// Around 0, p and 2^255, around each limb's ends in either radix, and a few others.
    fn edges() -> Vec<Words> {
        let mut edges = vec![
            ZERO,
            ONE,
            TWO,
            MINUS_ONE,
            P,
            [P[0] + 1, P[1], P[2], P[3]],
            [u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 1],
            [u64::MAX - 19, u64::MAX, u64::MAX, u64::MAX >> 1],
            D,
            I,
            SQRT_AD_MINUS_ONE,
        ];
        for at in [
            25, 26, 50, 51, 52, 101, 102, 103, 152, 153, 203, 204, 205, 230, 253, 254,
        ] {
            let mut power = ZERO;
            power[at / 64] = 1 << (at % 64);
            edges.extend([power, sum(power, MINUS_ONE), opposite(power)]);
            // Limbs of ones from there up, and below.
            edges.push(sum(
                [u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 1],
                opposite(power),
            ));
        }
        // Each limb at the middle of its range, where a signed one turns.
        for low in [(1u64 << 50) - 1, 1 << 50, (1 << 50) + 1] {
            let mut words = ZERO;
            for limb in 0..5 {
                put_bits(&mut words, 51 * limb, 51, low);
            }
            edges.push(words);
        }
        let mut next = product(D, I);
        for _ in 0..20 {
            next = product(next, sum(next, D));
            edges.push(next);
        }
        edges
    }

    fn canonical(x: Words) -> Words {
        product([x[0], x[1], x[2], x[3] & (u64::MAX >> 1)], ONE)
    }

    fn in_lanes<F: Field>(numbers: &[Words]) -> F {
        let mut lanes = [ZERO; MAX_LANES];
        lanes[..numbers.len()].copy_from_slice(numbers);
        F::load(&lanes)
    }

    fn field_is_right_at_the_edges<F: Field>() {
        let edges = edges();
        for x in edges.chunks(F::LANES) {
            let number: F = in_lanes(x);
            for (lane, x) in x.iter().enumerate() {
                let x = canonical(*x);
                assert_eq!(number.store()[lane], x);
                assert_eq!(number.zeros() >> lane & 1 == 1, x == ZERO);
                assert_eq!(number.odds() >> lane & 1 == 1, x[0] & 1 == 1);
                assert_eq!(number.neg().store()[lane], opposite(x));
                assert_eq!(number.neg().ready().carry().store()[lane], opposite(x));
                assert_eq!(number.abs().store()[lane][0] & 1, 0);
                assert_eq!(number.square().store()[lane], product(x, x));
                assert_eq!(
                    number.square_times(2).store()[lane],
                    product(product(x, x), product(x, x))
                );
                let inverse = number.invert().store()[lane];
                assert_eq!(product(inverse, x), if x == ZERO { ZERO } else { ONE });
                for mask in [0u8, 1 << lane, !(1 << lane)] {
                    let chosen = F::select(mask, number, F::splat(D)).store()[lane];
                    assert_eq!(chosen, if mask >> lane & 1 == 1 { x } else { D });
                }
            }
            for y in &edges {
                let other: F = F::splat([y[0], y[1], y[2], y[3] & (u64::MAX >> 1)]);
                let twice = number.add(number).ready();
                let widest = number.sub(other).add(other).sub_wide(other).carry();
                for (lane, x) in x.iter().enumerate() {
                    let (x, y) = (canonical(*x), canonical(*y));
                    let difference = sum(x, opposite(y));
                    assert_eq!(number.mul(other).store()[lane], product(x, y));
                    assert_eq!(twice.mul(other).store()[lane], product(sum(x, x), y));
                    assert_eq!(
                        number.mul(other.neg()).store()[lane],
                        opposite(product(x, y))
                    );
                    assert_eq!(number.add(other).store()[lane], sum(x, y));
                    assert_eq!(number.sub(other).store()[lane], difference);
                    assert_eq!(widest.store()[lane], difference);
                    assert_eq!(number.sub(other).zeros() >> lane & 1 == 1, x == y);
                }
            }
        }
    }

    #[test]
    fn emulated_ifma_is_right_at_the_edges() {
        field_is_right_at_the_edges::<Ifma<Emulated>>();
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx2_is_right_at_the_edges() {
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            field_is_right_at_the_edges::<crate::avx2::Avx2>();
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn ifma_is_right_at_the_edges() {
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512ifma")
        {
            field_is_right_at_the_edges::<Ifma<crate::ifma::avx512::Avx512>>();
        }
    }

    #[test]
    fn constants_are_what_defines_them() {
        let inverse = |x: Words| {
            let number: Ifma<Emulated> = Ifma::splat(x);
            number.invert().store()[0]
        };
        let minus_d = opposite(D);
        let parts = opposite(product([121_665, 0, 0, 0], inverse([121_666, 0, 0, 0])));
        assert_eq!(D, parts);
        assert_eq!(TWICE_D, sum(D, D));
        assert_eq!((product(I, I), I[0] & 1), (MINUS_ONE, 0));
        assert_eq!(
            product(SQRT_AD_MINUS_ONE, SQRT_AD_MINUS_ONE),
            sum(minus_d, MINUS_ONE)
        );
        let square = product(INVSQRT_A_MINUS_D, INVSQRT_A_MINUS_D);
        assert_eq!(product(square, sum(MINUS_ONE, minus_d)), ONE);
        assert_eq!(ONE_MINUS_D_SQUARED, sum(ONE, opposite(product(D, D))));
        let less_one = sum(D, MINUS_ONE);
        assert_eq!(D_MINUS_ONE_SQUARED, product(less_one, less_one));
    }
}
