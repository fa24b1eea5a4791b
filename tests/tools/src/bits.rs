//! A growing set of small numbers, one bit each: which sequence numbers were seen or accepted.

#[derive(Clone, Default)]
pub struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    /// True when `number` was not in the set.
    pub fn insert(&mut self, number: u64) -> bool {
        let (word, mask) = ((number / 64) as usize, 1u64 << (number % 64));
        if word >= self.words.len() {
            self.words.resize((word + 1).max(self.words.len() * 2), 0);
        }
        let fresh = self.words[word] & mask == 0;
        self.words[word] |= mask;
        self.count += u64::from(fresh);
        fresh
    }

    pub fn remove(&mut self, number: u64) {
        if self.contains(number) {
            self.words[(number / 64) as usize] &= !(1u64 << (number % 64));
            self.count -= 1;
        }
    }

    pub fn contains(&self, number: u64) -> bool {
        let word = self.words.get((number / 64) as usize).copied().unwrap_or(0);
        word & (1u64 << (number % 64)) != 0
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many are in this set and not in `other`.
    pub fn missing_from(&self, other: &Bits) -> u64 {
        let there = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(there).map(|(a, b)| u64::from((a & !b).count_ones())).sum()
    }

    /// Those that are in both.
    pub fn intersection(&self, other: &Bits) -> Bits {
        let words: Vec<u64> = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Bits { words, count }
    }

    /// The first and last of each run of numbers that are in this set and not in `other`.
    pub fn ranges_missing_from(&self, other: &Bits) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for number in 0..self.words.len() as u64 * 64 {
            if !self.contains(number) || other.contains(number) {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_fresh_once() {
        let mut bits = Bits::default();
        assert!(bits.insert(1000));
        assert!(!bits.insert(1000));
        assert!(bits.insert(0));
        assert_eq!(bits.count(), 2);
        bits.remove(1000);
        assert!(!bits.contains(1000));
        assert_eq!(bits.count(), 1);
    }

    #[test]
    fn what_is_missing_is_counted_beyond_the_end_of_the_other() {
        let (mut accepted, mut arrived) = (Bits::default(), Bits::default());
        for number in [1, 64, 5000] {
            accepted.insert(number);
        }
        arrived.insert(1);
        arrived.insert(2);
        assert_eq!(accepted.missing_from(&arrived), 2);
        assert_eq!(accepted.intersection(&arrived).count(), 1);
        assert_eq!(arrived.missing_from(&accepted), 1);
        accepted.insert(65);
        assert_eq!(accepted.ranges_missing_from(&arrived), [(64, 65), (5000, 5000)]);
    }
}
