//! A fixed set of small numbers that are handed out in turn: who has something to do.

use crate::fit::index;
pub struct Marks {
    words: Box<[u64]>,
    count: u32,
}

impl Marks {
    /// Room for the numbers below `count`.
    pub fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(64)].into_boxed_slice(), count: 0 }
    }

    /// Marks a number; one that is out of range is nobody's.
    pub fn set(&mut self, at: u16) {
        let Some(word) = self.words.get_mut(usize::from(at) / 64) else { return };
        if *word >> (at % 64) & 1 == 0 {
            *word |= 1 << (at % 64);
            self.count += 1;
        }
    }

    /// The lowest marked number, which is marked no more.
    pub fn pop(&mut self) -> Option<u16> {
        if self.count == 0 {
            return None;
        }
        let at = self.words.iter().position(|word| *word != 0)?;
        let bit = index(self.words[at].trailing_zeros());
        self.words[at] &= self.words[at] - 1;
        self.count -= 1;
        u16::try_from(at * 64 + bit).ok()
    }

    /// How many are marked.
    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_once() {
        let mut marks = Marks::new(130);
        for at in [129, 0, 64, 0, 500] {
            marks.set(at);
        }
        let mut seen = Vec::new();
        while let Some(at) = marks.pop() {
            seen.push(at);
        }
        assert_eq!(seen, [0, 64, 129]);
        assert!(marks.is_empty());
    }
}
