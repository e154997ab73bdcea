//! Which code does the arithmetic: the fastest that the CPU can run and that agrees with curve25519-dalek.

use crate::ifma::{Emulated, Ifma};
use crate::ristretto::{self, digits, Digits, ELEMENT};
use crate::{dalek, field};
use curve25519_dalek::scalar::Scalar;
use sha2::{Digest, Sha512};
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// Half the scalar that is asked for: encoding twice a point needs no square root of its own.
pub struct Half {
    scalar: Zeroizing<Scalar>,
    digits: Digits,
}

impl Half {
    pub fn of(scalar: &Scalar) -> Self {
        let scalar = Zeroizing::new(scalar * Scalar::from(2u64).invert());
        let bytes = Zeroizing::new(scalar.to_bytes());
        Half {
            scalar,
            digits: digits(&bytes),
        }
    }
}

/// The two operations, each on the elements that share an inversion.
pub struct Kernel {
    pub name: &'static str,
    runs_here: fn() -> bool,
    /// The scalar times each element. Err(i) when element i is no canonical encoding, or the identity.
    pub multiply: fn(&[u8], &Half, &mut [u8]) -> Result<(), usize>,
    /// The scalar times the element that the one-way map makes of each 64 bytes.
    pub map_multiply: fn(&[[u8; 64]], &Half, &mut [u8]),
}

const DALEK: Kernel = Kernel {
    name: "curve25519-dalek",
    runs_here: || true,
    multiply: |elements, half, out| dalek::multiply(elements, &half.scalar, out),
    map_multiply: |uniform, half, out| dalek::map_multiply(uniform, &half.scalar, out),
};

/// Never chosen: for tests of the IFMA algorithm on CPUs without the instructions.
const EMULATED: Kernel = Kernel {
    name: "IFMA emulated",
    runs_here: || true,
    multiply: |elements, half, out| {
        ristretto::multiply::<Ifma<Emulated>>(elements, &half.digits, out)
    },
    map_multiply: |uniform, half, out| {
        ristretto::map_multiply::<Ifma<Emulated>>(uniform, &half.digits, out)
    },
};

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::*;
    use crate::avx2::{rounds_to_nearest, Avx2};
    use crate::ifma::avx512::Avx512;

    /// A kernel whose functions are compiled, with all that is inlined into them, for CPUs with the features.
    macro_rules! kernel {
        ($constant:ident, $name:literal, $field:ty, $safe_now:expr, $features:literal, $($feature:tt),+) => {
            pub const $constant: Kernel = {
                #[target_feature(enable = $features)]
                fn multiply(elements: &[u8], half: &Half, out: &mut [u8]) -> Result<(), usize> {
                    ristretto::multiply::<$field>(elements, &half.digits, out)
                }
                #[target_feature(enable = $features)]
                fn map_multiply(uniform: &[[u8; 64]], half: &Half, out: &mut [u8]) {
                    ristretto::map_multiply::<$field>(uniform, &half.digits, out)
                }
                Kernel {
                    name: $name,
                    runs_here: || $(std::arch::is_x86_feature_detected!($feature))&&+,
                    // SAFETY: `kernels` gives out only those that run here.
                    multiply: |elements, half, out| match $safe_now() {
                        true => unsafe { multiply(elements, half, out) },
                        false => (DALEK.multiply)(elements, half, out),
                    },
                    map_multiply: |uniform, half, out| match $safe_now() {
                        true => unsafe { map_multiply(uniform, half, out) },
                        false => (DALEK.map_multiply)(uniform, half, out),
                    },
                }
            };
        };
    }

    kernel!(
        AVX2,
        "AVX2",
        Avx2,
        rounds_to_nearest,
        "avx2,fma",
        "avx2",
        "fma"
    );
    kernel!(
        IFMA,
        "AVX-512 IFMA",
        Ifma<Avx512>,
        || true,
        "avx512f,avx512ifma",
        "avx512f",
        "avx512ifma"
    );
}

#[cfg(target_arch = "x86_64")]
const ALL: &[Kernel] = &[vector::IFMA, vector::AVX2, DALEK];
#[cfg(not(target_arch = "x86_64"))]
const ALL: &[Kernel] = &[DALEK];

/// Those that run here, the fastest first. A kernel that disagrees with curve25519-dalek is none of them.
pub fn kernels() -> &'static [&'static Kernel] {
    static KERNELS: OnceLock<Vec<&'static Kernel>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        ALL.iter()
            .filter(|kernel| (kernel.runs_here)() && agrees_with_dalek(kernel))
            .collect()
    })
}

/// The kernel of that name, if it runs here; without a name the fastest.
pub fn named(name: Option<&str>) -> Option<&'static Kernel> {
    match name {
        None => kernels().first().copied(),
        Some(name) if name == EMULATED.name => Some(&EMULATED),
        Some(name) => kernels().iter().copied().find(|kernel| kernel.name == name),
    }
}

/// On a few elements, by both operations, and that it refuses an element in each lane.
fn agrees_with_dalek(kernel: &Kernel) -> bool {
    const N: usize = 2 * field::MAX_LANES + 1;
    let mut uniform = [[0; 64]; N];
    for (i, bytes) in uniform.iter_mut().enumerate() {
        *bytes = Sha512::new()
            .chain_update(b"tidegate kernel check ")
            .chain_update([i as u8])
            .finalize()
            .into();
    }
    let half = Half::of(&Scalar::from_bytes_mod_order_wide(&uniform[0]));
    let [mut mapped, mut expected] = [[0; N * ELEMENT]; 2];
    (kernel.map_multiply)(&uniform, &half, &mut mapped);
    (DALEK.map_multiply)(&uniform, &half, &mut expected);
    if mapped != expected {
        return false;
    }
    let [mut product, mut expected] = [[0; N * ELEMENT]; 2];
    let answer = (kernel.multiply)(&mapped, &half, &mut product);
    if answer != (DALEK.multiply)(&mapped, &half, &mut expected) || product != expected {
        return false;
    }
    (0..N).all(|place| {
        let mut bad = mapped;
        bad[place * ELEMENT] ^= 1; // negative
        (kernel.multiply)(&bad, &half, &mut product) == Err(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each() -> impl Iterator<Item = &'static Kernel> {
        kernels().iter().copied().chain([&EMULATED])
    }

    #[test]
    fn one_way_map_is_that_of_rfc9496() {
        let vectors = include_str!("../../../tests/vectors/rfc9496_ristretto255.json");
        let texts = |key: &str| -> Vec<&str> {
            let opening = format!("\"{key}\": \"");
            let after = vectors.split(opening.as_str()).skip(1);
            after.filter_map(|text| text.split('"').next()).collect()
        };
        let uniform: Vec<[u8; 64]> = texts("label")
            .iter()
            .map(|label| Sha512::digest(label).into())
            .collect();
        assert_eq!(uniform.len(), 7);
        for kernel in each() {
            let mut mapped = [0; 7 * ELEMENT];
            (kernel.map_multiply)(&uniform, &Half::of(&Scalar::ONE), &mut mapped);
            let hex: String = mapped.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, texts("encoding").concat(), "{}", kernel.name);
        }
    }

    #[test]
    fn one_way_map_is_daleks_at_the_edges() {
        let mut halves = vec![[0; 32], [0xff; 32]];
        for low in [0x00, 0x01, 0xeb, 0xec, 0xed, 0xee, 0xff] {
            for (middle, top) in [(0x00, 0x00), (0xff, 0x7f), (0xff, 0xff), (0x00, 0x80)] {
                let mut half = [middle; 32];
                (half[0], half[31]) = (low, top);
                halves.push(half);
            }
        }
        let pairs = halves
            .iter()
            .flat_map(|first| halves.iter().map(move |second| (first, second)));
        let uniform: Vec<[u8; 64]> = pairs
            .map(|(first, second)| [*first, *second].concat().try_into().expect("two halves"))
            .collect();
        for scalar in [Scalar::ONE, -Scalar::ONE, Scalar::from(2u64).invert()] {
            let half = Half::of(&scalar);
            let mut expected = vec![0; uniform.len() * ELEMENT];
            (DALEK.map_multiply)(&uniform, &half, &mut expected);
            for kernel in each() {
                let mut mapped = vec![0; uniform.len() * ELEMENT];
                (kernel.map_multiply)(&uniform, &half, &mut mapped);
                assert!(mapped == expected, "{}", kernel.name);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn kernels_are_right_in_any_rounding_mode() {
        let set_mode = |mode: u32| {
            let control = 0x1f80 | mode << 13;
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &control) };
        };
        for kernel in each() {
            for mode in 0..4 {
                set_mode(mode);
                let agrees = agrees_with_dalek(kernel);
                set_mode(0);
                assert!(agrees, "{} in mode {mode}", kernel.name);
            }
        }
    }

    #[test]
    fn kernel_that_computes_or_refuses_otherwise_than_dalek_is_passed_over() {
        assert!(agrees_with_dalek(&EMULATED));
        let wrong_product = Kernel {
            multiply: |elements, half, out| {
                let answer = (DALEK.multiply)(elements, half, out);
                out[out.len() - 1] ^= 1;
                answer
            },
            ..DALEK
        };
        let wrong_map = Kernel {
            map_multiply: |_, _, out| out.fill(1),
            ..DALEK
        };
        let refuses_nothing = Kernel {
            multiply: |elements, half, out| (DALEK.multiply)(elements, half, out).or(Ok(())),
            ..DALEK
        };
        for kernel in [wrong_product, wrong_map, refuses_nothing] {
            assert!(!agrees_with_dalek(&kernel));
        }
    }
}
