//! ristretto255 (RFC 9496) over a field of any number of lanes: each lane holds a point of its own.
//!
//! Points are on the twisted Edwards curve -x^2 + y^2 = 1 + d x^2 y^2, with the formulas of Hisil, Wong, Carter and
//! Dawson (Asiacrypt 2008); they are complete, so no point takes another path. A group element is a coset of four
//! points, and any of them will do.

use crate::field::*;
use core::hint::black_box;
use zeroize::Zeroizing;

pub const ELEMENT: usize = 32;

/// A scalar as 64 digits in -8..8, base 16, lowest first.
pub type Digits = Zeroizing<[i8; 64]>;

pub fn digits(scalar: &[u8; 32]) -> Digits {
    let mut digits = Zeroizing::new([0; 64]);
    let mut carry = 0;
    for i in 0..64 {
        let nibble = (scalar[i / 2] >> (4 * (i % 2)) & 15) as i8 + carry;
        carry = (nibble + 8) >> 4;
        digits[i] = nibble - (carry << 4);
    }
    digits
}

/// (X : Y : Z) with x = X/Z, y = Y/Z.
#[derive(Clone, Copy)]
struct Projective<F> {
    x: F,
    y: F,
    z: F,
}

/// (X : Y : Z : T) with T = XY/Z besides. Each has size 1.
#[derive(Clone, Copy)]
pub struct Extended<F> {
    x: F,
    y: F,
    z: F,
    t: F,
}

/// x = e/g, y = h/f, as an addition or a doubling leaves it; each is ready.
#[derive(Clone, Copy)]
struct Completed<F> {
    e: F,
    f: F,
    g: F,
    h: F,
}

/// Y + X, Y - X, 2Z and 2dT, which the addition of this point needs; each is ready.
#[derive(Clone, Copy)]
struct Cached<F> {
    sum: F,
    difference: F,
    twice_z: F,
    twice_dt: F,
}

impl<F: Field> Completed<F> {
    #[inline(always)]
    fn projective(self) -> Projective<F> {
        Projective {
            x: self.e.mul(self.f),
            y: self.g.mul(self.h),
            z: self.f.mul(self.g),
        }
    }

    #[inline(always)]
    fn extended(self) -> Extended<F> {
        Extended {
            x: self.e.mul(self.f),
            y: self.g.mul(self.h),
            z: self.f.mul(self.g),
            t: self.e.mul(self.h),
        }
    }
}

impl<F: Field> Projective<F> {
    /// HWCD 2008, 3.3 with a = -1, the signs of F and H turned, which cancel, and 2XY for (X + Y)^2 - X^2 - Y^2.
    #[inline(always)]
    fn double(self) -> Completed<F> {
        let xx = self.x.square();
        let yy = self.y.square();
        let zz = self.z.square();
        let g = yy.sub(xx).carry();
        Completed {
            e: self.x.mul(self.y.add(self.y).ready()),
            f: zz.add(zz).sub(g).ready(),
            g,
            h: yy.add(xx).ready(),
        }
    }
}

impl<F: Field> Extended<F> {
    #[inline(always)]
    fn projective(self) -> Projective<F> {
        Projective {
            x: self.x,
            y: self.y,
            z: self.z,
        }
    }

    #[inline(always)]
    fn double(self) -> Self {
        self.projective().double().extended()
    }

    /// HWCD 2008, 3.1 for a = -1.
    #[inline(always)]
    fn add(self, other: &Cached<F>) -> Completed<F> {
        let a = self.y.sub(self.x).ready().mul(other.difference);
        let b = self.y.add(self.x).ready().mul(other.sum);
        let c = other.twice_dt.mul(self.t);
        let d = self.z.mul(other.twice_z);
        Completed {
            e: b.sub(a).ready(),
            f: d.sub(c).carry(),
            g: d.add(c).ready(),
            h: b.add(a).carry(),
        }
    }

    #[inline(always)]
    fn cached(self) -> Cached<F> {
        Cached {
            sum: self.y.add(self.x).carry(),
            difference: self.y.sub(self.x).carry(),
            twice_z: self.z.add(self.z).ready(),
            twice_dt: self.t.mul(F::splat(TWICE_D)),
        }
    }

    /// 1, 2, ... 8 times the point.
    #[inline(always)]
    fn multiples(self) -> [Cached<F>; 8] {
        let mut table = [self.cached(); 8];
        let two = self.double();
        table[1] = two.cached();
        let three = two.add(&table[0]).extended();
        table[2] = three.cached();
        let four = two.double();
        table[3] = four.cached();
        table[4] = four.add(&table[0]).extended().cached();
        let six = three.double();
        table[5] = six.cached();
        table[6] = six.add(&table[0]).extended().cached();
        table[7] = four.double().cached();
        table
    }

    /// The same sequence of operations and of memory addresses for every scalar and every point.
    #[inline(always)]
    fn times(self, digits: &Digits) -> Projective<F> {
        let table = self.multiples();
        let identity = Extended {
            x: F::splat(ZERO),
            y: F::splat(ONE),
            z: F::splat(ONE),
            t: F::splat(ZERO),
        };
        let mut sum = identity.add(&digit_times(&table, digits[63]));
        for i in (0..63).rev() {
            for _ in 0..3 {
                sum = sum.projective().double();
            }
            let sixteenfold = sum.projective().double().extended();
            sum = sixteenfold.add(&digit_times(&table, digits[i]));
        }
        sum.projective()
    }
}

/// digit times the point of the table, for a secret digit in -8..=8: reads the whole table.
#[inline(always)]
fn digit_times<F: Field>(table: &[Cached<F>; 8], digit: i8) -> Cached<F> {
    let sign = digit >> 7; // -1 or 0
    let magnitude = ((digit ^ sign) - sign) as u32;
    let mut chosen = Cached {
        sum: F::splat(ONE),
        difference: F::splat(ONE),
        twice_z: F::splat(TWO),
        twice_dt: F::splat(ZERO),
    };
    for (multiple, entry) in (1u32..).zip(table) {
        let mask = all_lanes_if(((magnitude ^ multiple).wrapping_sub(1) >> 31) as u8);
        chosen = Cached {
            sum: F::select(mask, entry.sum, chosen.sum),
            difference: F::select(mask, entry.difference, chosen.difference),
            twice_z: F::select(mask, entry.twice_z, chosen.twice_z),
            twice_dt: F::select(mask, entry.twice_dt, chosen.twice_dt),
        };
    }
    let negative = all_lanes_if((sign & 1) as u8);
    Cached {
        sum: F::select(negative, chosen.difference, chosen.sum),
        difference: F::select(negative, chosen.sum, chosen.difference),
        twice_z: chosen.twice_z,
        twice_dt: F::select(negative, chosen.twice_dt.neg(), chosen.twice_dt),
    }
}

/// Hides from the compiler that the mask has only two values, lest it make a branch of it.
#[inline(always)]
fn all_lanes_if(bit: u8) -> Mask {
    black_box(bit.wrapping_neg())
}

/// The points that the encodings stand for, and the lanes where an encoding stands for one other than the identity.
///
/// RFC 9496, 4.3.1.
#[inline(always)]
fn decode<F: Field>(encodings: &[Words; MAX_LANES]) -> (Extended<F>, Mask) {
    let mut good: Mask = 0;
    for (lane, words) in encodings.iter().enumerate() {
        good |= u8::from(is_canonical(words)) << lane;
    }
    let one = F::splat(ONE);
    let s = F::load(encodings);
    let ss = s.square();
    let u1 = one.sub(ss).carry();
    let u2 = one.add(ss).carry();
    let u2_squared = u2.square();
    let v = u1.square().mul(F::splat(D)).add(u2_squared).carry().neg();
    let (was_square, root) = F::sqrt_ratio(one, v.mul(u2_squared));
    let den_x = root.mul(u2);
    let den_y = root.mul(den_x).mul(v);
    let x = s.add(s).ready().mul(den_x).abs().carry();
    let y = u1.mul(den_y);
    let t = x.mul(y);
    let bad = t.odds() | y.zeros() | s.zeros();
    (Extended { x, y, z: one, t }, good & was_square & !bad)
}

/// Below p and even.
#[inline(always)]
fn is_canonical(words: &Words) -> bool {
    let mut borrow = false;
    for (word, p) in words.iter().zip(&P) {
        let (difference, first) = word.overflowing_sub(*p);
        let (_, second) = difference.overflowing_sub(u64::from(borrow));
        borrow = first | second;
    }
    borrow & (words[0] & 1 == 0)
}

/// The one-way map of RFC 9496, 4.3.4, from 64 uniform bytes, given as two numbers of 255 bits.
#[inline(always)]
fn one_way_map<F: Field>(halves: &[[Words; MAX_LANES]; 2]) -> Extended<F> {
    let first = elligator::<F>(F::load(&halves[0]));
    let second = elligator::<F>(F::load(&halves[1]));
    first.add(&second.cached()).extended()
}

/// MAP of RFC 9496, 4.3.4.
#[inline(always)]
fn elligator<F: Field>(t: F) -> Extended<F> {
    let (one, minus_one, d) = (F::splat(ONE), F::splat(MINUS_ONE), F::splat(D));
    let r = t.square().mul(F::splat(I));
    let u = r.add(one).ready().mul(F::splat(ONE_MINUS_D_SQUARED));
    let v = minus_one.sub(r.mul(d)).ready().mul(r.add(d).carry());
    let (was_square, root) = F::sqrt_ratio(u, v);
    let other = root.mul(t).abs().carry().neg().carry();
    let s = F::select(was_square, root, other).carry();
    let c = F::select(was_square, minus_one, r);
    let n = c
        .mul(r.sub(one).ready())
        .mul(F::splat(D_MINUS_ONE_SQUARED))
        .sub(v)
        .ready();
    let ss = s.square();
    let w0 = s.add(s).ready().mul(v);
    let w1 = n.mul(F::splat(SQRT_AD_MINUS_ONE));
    let w2 = one.sub(ss).ready();
    let w3 = one.add(ss).ready();
    Extended {
        x: w0.mul(w3),
        y: w2.mul(w1),
        z: w1.mul(w3),
        t: w0.mul(w2),
    }
}

/// Twice a point as (eh : gf : fh : eg), from which its encoding needs 1/efgh and no square root.
///
/// With -x^2 + y^2 = 1 + d x^2 y^2 the doubling is x' = 2xy / (y^2 - x^2), y' = (y^2 + x^2) / (2 - y^2 + x^2).
#[derive(Clone, Copy)]
struct Doubled<F> {
    e: F,
    f: F,
    g: F,
    h: F,
}

impl<F: Field> Doubled<F> {
    #[inline(always)]
    fn of(point: Projective<F>) -> Self {
        let xx = point.x.square();
        let yy = point.y.square();
        let zz = point.z.square();
        let xy = point.x.mul(point.y);
        let f = yy.sub(xx);
        Doubled {
            e: xy.add(xy).carry(),
            f: f.carry(),
            g: yy.add(xx).carry(),
            h: zz.add(zz).sub_wide(f).carry(),
        }
    }

    /// The encodings, given 1/efgh, or 0 where efgh is 0, which is the identity.
    ///
    /// RFC 9496, 4.3.2, where 1/sqrt of (Z^2 - Y^2) X^2 Y^2 ... is known up to a sign and a root of -1:
    /// Hamburg's double-and-encode.
    #[inline(always)]
    fn encode(&self, inverse: F) -> [Words; MAX_LANES] {
        let eg = self.e.mul(self.g);
        let fh = self.f.mul(self.h);
        let z_inverse = eg.mul(inverse);
        let t_inverse = fh.mul(inverse);
        let i = F::splat(I);
        let rotated = eg.mul(z_inverse).odds();
        let e = F::select(rotated, self.g, self.e);
        let g = F::select(rotated, self.e.neg().carry(), self.g);
        let h = F::select(rotated, self.f.mul(i), self.h);
        let root = F::select(rotated, i, F::splat(INVSQRT_A_MINUS_D));
        let turned = h.mul(e).mul(z_inverse).odds();
        let g = F::select(turned, g.neg().carry(), g);
        let s = h.sub(g).ready().mul(root).mul(g.mul(t_inverse));
        s.abs().store()
    }
}

/// The encodings of twice the points, which share one inversion.
#[inline(always)]
fn encode_doubled<F: Field>(points: &[Doubled<F>], out: &mut [u8]) {
    let one = F::splat(ONE);
    let mut product = one;
    let mut before = Vec::with_capacity(points.len());
    for point in points {
        let all = point.e.mul(point.g).mul(point.f.mul(point.h));
        let zeros = all.zeros();
        let factor = F::select(zeros, one, all);
        before.push((product, factor, zeros));
        product = product.mul(factor);
    }
    let mut inverse = product.invert();
    for (i, point) in points.iter().enumerate().rev() {
        let (product, factor, zeros) = before[i];
        let own = F::select(zeros, F::splat(ZERO), inverse.mul(product));
        inverse = inverse.mul(factor);
        let at = i * F::LANES * ELEMENT;
        let end = out.len().min(at + F::LANES * ELEMENT);
        write(&point.encode(own), &mut out[at..end]);
    }
}

#[inline(always)]
fn read(bytes: &[u8], words: &mut Words) {
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(eight.try_into().expect("chunks have 8 bytes"));
    }
}

#[inline(always)]
fn write(encodings: &[Words; MAX_LANES], out: &mut [u8]) {
    for (slot, words) in out.chunks_exact_mut(ELEMENT).zip(encodings) {
        for (eight, word) in slot.chunks_exact_mut(8).zip(words) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Twice the scalar times each element. Err(i) when element i is no canonical encoding, or the identity.
#[inline(always)]
pub fn multiply<F: Field>(elements: &[u8], digits: &Digits, out: &mut [u8]) -> Result<(), usize> {
    let group = F::LANES * ELEMENT;
    let mut doubled = Vec::with_capacity(elements.len().div_ceil(group));
    for (i, elements) in elements.chunks(group).enumerate() {
        let mut words = [ZERO; MAX_LANES];
        for (words, element) in words.iter_mut().zip(elements.chunks_exact(ELEMENT)) {
            read(element, words);
        }
        let (point, good) = decode::<F>(&words);
        let first_bad = (!good).trailing_zeros() as usize;
        if first_bad < elements.len() / ELEMENT {
            return Err(i * F::LANES + first_bad);
        }
        doubled.push(Doubled::of(point.times(digits)));
    }
    encode_doubled(&doubled, out);
    Ok(())
}

/// Twice the scalar times the element that the one-way map makes of each 64 bytes.
#[inline(always)]
pub fn map_multiply<F: Field>(uniform: &[[u8; 64]], digits: &Digits, out: &mut [u8]) {
    let mut doubled = Vec::with_capacity(uniform.len().div_ceil(F::LANES));
    for uniform in uniform.chunks(F::LANES) {
        let mut halves = [[ZERO; MAX_LANES]; 2];
        for (lane, bytes) in uniform.iter().enumerate() {
            read(&bytes[..32], &mut halves[0][lane]);
            read(&bytes[32..], &mut halves[1][lane]);
        }
        let point = one_way_map::<F>(&halves);
        doubled.push(Doubled::of(point.times(digits)));
    }
    encode_doubled(&doubled, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bound on the limbs of a number in place of the number; see `field`. Limbs have a sign, as in `avx2`, or have
    /// none, and then a product takes 52 bits, as in `ifma`.
    #[derive(Clone, Copy)]
    struct Size<const SIGNED: bool> {
        size: u32,
        ready: bool,
    }

    fn size<const SIGNED: bool>(size: u32) -> Size<SIGNED> {
        Size {
            size,
            ready: SIGNED || size <= 1,
        }
    }

    impl<const SIGNED: bool> Field for Size<SIGNED> {
        const LANES: usize = MAX_LANES;

        fn splat(words: Words) -> Self {
            size(u32::from(words != ZERO))
        }
        fn load(_: &[Words; MAX_LANES]) -> Self {
            size(1)
        }
        fn store(self) -> [Words; MAX_LANES] {
            assert!(self.size <= 8);
            [ZERO; MAX_LANES]
        }
        fn add(self, other: Self) -> Self {
            size(self.size + other.size)
        }
        fn sub(self, other: Self) -> Self {
            assert!(other.size <= 1);
            size(self.size + if SIGNED { other.size } else { 2 })
        }
        fn sub_wide(self, other: Self) -> Self {
            assert!(other.size <= 3);
            size(self.size + if SIGNED { other.size } else { 4 })
        }
        fn carry(self) -> Self {
            assert!(self.size <= 8);
            size(1)
        }
        fn ready(self) -> Self {
            if SIGNED {
                self
            } else {
                self.carry()
            }
        }
        fn neg(self) -> Self {
            assert!(self.size <= 1);
            Size {
                size: if SIGNED { 1 } else { 2 },
                ready: true,
            }
        }
        fn mul(self, other: Self) -> Self {
            assert!(self.ready && other.ready);
            assert!(self.size * other.size <= 3);
            size(1)
        }
        fn square(self) -> Self {
            assert!(self.ready && self.size <= 1);
            size(1)
        }
        fn square_times(self, _: u32) -> Self {
            self.square()
        }
        fn select(_: Mask, yes: Self, no: Self) -> Self {
            Size {
                size: yes.size.max(no.size),
                ready: yes.ready && no.ready,
            }
        }
        fn zeros(self) -> Mask {
            assert!(self.size <= 8);
            0
        }
        fn odds(self) -> Mask {
            assert!(self.size <= 8);
            0
        }
    }

    fn formulas_keep_to_the_sizes<const SIGNED: bool>() {
        let (decoded, _) = decode::<Size<SIGNED>>(&[ZERO; MAX_LANES]);
        let mapped = one_way_map::<Size<SIGNED>>(&[[ZERO; MAX_LANES]; 2]);
        for point in [decoded, mapped] {
            for coordinate in [point.x, point.y, point.z, point.t] {
                assert!(coordinate.size <= 1 && coordinate.ready);
            }
            let product = point.times(&digits(&[0x77; 32]));
            encode_doubled(
                &[Doubled::of(product); 2],
                &mut [0; 2 * MAX_LANES * ELEMENT],
            );
        }
    }

    #[test]
    fn no_limb_overflows_where_limbs_have_a_sign() {
        formulas_keep_to_the_sizes::<true>();
    }

    #[test]
    fn no_limb_overflows_where_limbs_have_none() {
        formulas_keep_to_the_sizes::<false>();
    }

    #[test]
    fn digits_are_small_and_add_up_to_the_scalar() {
        let mut scalar = [0; 32];
        for fill in [0x00, 0x77, 0x78, 0x87, 0x88, 0xff, 0x5a] {
            scalar[..31].fill(fill);
            scalar[31] = 0x0f;
            let mut sum = [0i32; 65];
            for (i, digit) in digits(&scalar).iter().enumerate() {
                assert!((-8..=8).contains(digit));
                sum[i] += i32::from(*digit);
                // A negative digit borrows from the next.
                if sum[i] < 0 {
                    sum[i] += 16;
                    sum[i + 1] -= 1;
                }
            }
            for (i, byte) in scalar.iter().enumerate() {
                assert_eq!(i32::from(*byte), sum[2 * i] + 16 * sum[2 * i + 1]);
            }
        }
    }
}
