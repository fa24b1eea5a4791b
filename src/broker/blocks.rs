//! Chains of fixed blocks: the memory of what is variable in size and must not fragment.
//!
//! Allocates in `new` only. The caller keeps a chain's first block and its length in bytes, and
//! asks for no more blocks than `free`.

pub(super) use crate::fit::index;
use core::mem::size_of;

/// Bytes of a block. Most retained values of sensors, topic included, fit into one.
pub const BLOCK_BYTES: usize = 128;
/// No block: the chain of nothing.
pub(super) const NONE: u32 = u32::MAX;

pub(super) struct Blocks {
    blocks: Box<[[u8; BLOCK_BYTES]]>,
    /// The block behind each block, in a chain or among the free ones.
    links: Box<[u32]>,
    free: u32,
    /// Blocks from here on were never used; keeps the pages behind them untouched.
    fresh: u32,
    used_count: usize,
}

impl Blocks {
    pub fn new(bytes_max: usize) -> Self {
        let count = (bytes_max / BLOCK_BYTES).min(index(NONE - 1));
        Self {
            blocks: vec![[0; BLOCK_BYTES]; count].into_boxed_slice(),
            links: vec![0; count].into_boxed_slice(),
            free: NONE,
            fresh: 0,
            used_count: 0,
        }
    }

    pub fn bytes_planned(bytes_max: usize) -> usize {
        (bytes_max / BLOCK_BYTES) * (BLOCK_BYTES + size_of::<u32>())
    }

    /// Blocks that `bytes` bytes take.
    pub fn count_for(bytes: usize) -> usize {
        bytes.div_ceil(BLOCK_BYTES)
    }

    pub fn free_count(&self) -> usize {
        self.blocks.len() - self.used_count
    }

    pub fn used_bytes(&self) -> usize {
        self.used_count * BLOCK_BYTES
    }

    /// Makes the chain that begins with `first` `count` blocks long; what it holds stays, as far
    /// as there is room. Returns the first block of the result.
    pub fn resize(&mut self, first: u32, count: usize) -> u32 {
        let mut first = first;
        let mut kept = 0;
        let mut last = NONE;
        let mut at = first;
        while kept < count && at != NONE {
            kept += 1;
            last = at;
            at = self.links[index(at)];
        }
        self.link(&mut first, last, NONE);
        while at != NONE {
            let next = self.links[index(at)];
            self.links[index(at)] = self.free;
            self.free = at;
            self.used_count -= 1;
            at = next;
        }
        for _ in kept..count {
            let block = self.take();
            self.link(&mut first, last, block);
            last = block;
        }
        first
    }

    /// Writes the pieces one behind the other into the chain, from its beginning.
    pub fn write<'a>(&mut self, first: u32, pieces: impl Iterator<Item = &'a [u8]>) {
        let mut block = first;
        let mut at = 0;
        for mut piece in pieces {
            while !piece.is_empty() {
                if at == BLOCK_BYTES {
                    block = self.links[index(block)];
                    at = 0;
                }
                let (now, later) = piece.split_at(piece.len().min(BLOCK_BYTES - at));
                self.blocks[index(block)][at..at + now.len()].copy_from_slice(now);
                at += now.len();
                piece = later;
            }
        }
    }

    /// The first `bytes` bytes of a chain, a block at a time.
    pub fn read(&self, first: u32, bytes: usize) -> impl Iterator<Item = &[u8]> {
        let mut left = bytes;
        let mut at = first;
        core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let count = left.min(BLOCK_BYTES);
            let piece = &self.blocks[index(at)][..count];
            left -= count;
            at = self.links[index(at)];
            Some(piece)
        })
    }

    fn take(&mut self) -> u32 {
        let block = if self.free == NONE {
            self.fresh += 1;
            self.fresh - 1
        } else {
            let block = self.free;
            self.free = self.links[index(block)];
            block
        };
        self.links[index(block)] = NONE;
        self.used_count += 1;
        block
    }

    /// Puts `next` behind `last`, or at the beginning when there is no `last`.
    fn link(&mut self, first: &mut u32, last: u32, next: u32) {
        match last {
            NONE => *first = next,
            last => self.links[index(last)] = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Rng;

    #[test]
    fn chains_keep_what_they_hold_while_others_grow_and_shrink() {
        let mut rng = Rng::new(9);
        let mut blocks = Blocks::new(64 * BLOCK_BYTES + 127);
        let mut chains: Vec<(u32, Vec<u8>)> = vec![(NONE, Vec::new()); 6];
        for step in 0..3000_u32 {
            let at = usize::try_from(rng.below(6)).unwrap();
            let bytes = usize::try_from(rng.below(2000)).unwrap();
            let (first, held) = &mut chains[at];
            let room = blocks.free_count() + Blocks::count_for(held.len());
            if Blocks::count_for(bytes) <= room {
                let fill = step.to_le_bytes()[0];
                *held = (0..bytes).map(|at| fill.wrapping_mul(at.to_le_bytes()[0])).collect();
                *first = blocks.resize(*first, Blocks::count_for(bytes));
                blocks.write(*first, held.chunks(77));
            }
            let used: usize = chains.iter().map(|(_, held)| Blocks::count_for(held.len())).sum();
            assert_eq!((blocks.used_bytes(), blocks.free_count()), (used * BLOCK_BYTES, 64 - used));
            for (first, held) in &chains {
                assert!(blocks.read(*first, held.len()).flatten().eq(held.iter()), "step {step}");
            }
        }
    }
}
