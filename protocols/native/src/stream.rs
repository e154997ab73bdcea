//! The stream of `tidegate.protocols.primitives.randomness.Randomness`: AES-256-CTR, little-endian words.

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes256, Block};
use zeroize::Zeroize;

/// Blocks encrypted at a time.
const BATCH: usize = 64;

pub struct Stream {
    cipher: Aes256,
    /// The next word of the stream.
    position: u64,
}

impl Stream {
    pub fn new(seed: &[u8; 32]) -> Self {
        Stream {
            cipher: Aes256::new(GenericArray::from_slice(seed)),
            position: 0,
        }
    }

    /// The next words.
    pub fn words(&mut self, out: &mut [u64]) {
        let mut blocks = [Block::default(); BATCH];
        let mut rest = out;
        while !rest.is_empty() {
            let skipped = (self.position % 2) as usize;
            let here = rest.len().min(2 * BATCH - skipped);
            let used = (skipped + here).div_ceil(2);
            let counter = u128::from(self.position / 2);
            for (block, i) in blocks[..used].iter_mut().zip(0u128..) {
                *block = (counter + i).to_be_bytes().into();
            }
            self.cipher.encrypt_blocks(&mut blocks[..used]);
            let (now, later) = rest.split_at_mut(here);
            let words = blocks.iter().flat_map(|block| block.chunks_exact(8));
            for (slot, word) in now.iter_mut().zip(words.skip(skipped)) {
                *slot = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            }
            self.position += here as u64;
            rest = later;
        }
        for block in &mut blocks {
            block.as_mut_slice().zeroize();
        }
    }

    /// `Randomness.integers`: uniform below the modulus, which is public, as what comes out is.
    pub fn integers(&mut self, modulus: u64, out: &mut [u64]) {
        let mask = u64::MAX >> (modulus - 1).leading_zeros();
        let mut kept = 0;
        while kept < out.len() {
            let missing = out.len() - kept;
            // Half as many again and 16 are drawn, used or not, so that the stream goes on where Python's does.
            let mut left = missing + missing / 2 + 16;
            let end = self.position + left as u64;
            while left > 0 && kept < out.len() {
                let fresh = left.min(out.len() - kept);
                self.words(&mut out[kept..kept + fresh]);
                left -= fresh;
                let from = kept;
                for i in from..from + fresh {
                    let value = out[i] & mask;
                    out[kept] = value;
                    kept += usize::from(value < modulus);
                }
            }
            self.position = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_whatever_portions_they_are_drawn() {
        let mut whole = [0; 1000];
        Stream::new(&[7; 32]).words(&mut whole);
        let mut parts = [0; 1000];
        let mut stream = Stream::new(&[7; 32]);
        let mut at = 0;
        for size in [1, 2, 3, 127, 128, 129, 255, 355] {
            stream.words(&mut parts[at..at + size]);
            at += size;
        }
        assert_eq!(at, 1000);
        assert_eq!(whole, parts);
    }

    #[test]
    fn the_stream_is_aes_256_in_counter_mode() {
        // FIPS-197's cipher on a zero block under a zero key (NIST AESAVS).
        let mut first = [0; 2];
        Stream::new(&[0; 32]).words(&mut first);
        assert_eq!(
            first[0].to_le_bytes(),
            [0xdc, 0x95, 0xc0, 0x78, 0xa2, 0x40, 0x89, 0x89]
        );
    }
}
