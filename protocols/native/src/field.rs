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
