//! The network: one pipe of bytes each way a connection, with latency, stalls, silence and ends.
//! Bytes never change their order; where they are split is chance.

use spillway::vocab::Rng;
use std::collections::VecDeque;

/// No time.
pub const NEVER: u64 = u64::MAX;

/// Bytes that may be on their way in one direction before its writer has to wait.
const ROOM: usize = 16 * 1024;

/// How a pipe ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Finished,
    Reset,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Nothing,
    Bytes(Vec<u8>),
    End(End),
}

/// One direction.
#[derive(Default)]
pub struct Pipe {
    chunks: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    last_at: u64,
    end: Option<(u64, End)>,
    ended: bool,
    /// Nothing arrives before.
    pub stalled_until: u64,
    /// The reader takes so many bytes and not one more.
    pub deaf_after: Option<usize>,
}

impl Pipe {
    /// Room for more bytes from the writer.
    pub fn room(&self) -> usize {
        if self.end.is_some() || self.ended { 0 } else { ROOM.saturating_sub(self.bytes) }
    }

    /// Bytes that have left the writer and were not read.
    pub fn outstanding(&self) -> usize {
        self.bytes
    }

    /// Bytes leave the writer and arrive at `at`, or behind what is on its way.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        if self.end.is_some() || bytes.is_empty() {
            return;
        }
        self.last_at = self.last_at.max(at);
        self.bytes += bytes.len();
        self.chunks.push_back((self.last_at, bytes.to_vec()));
    }

    /// The writer ends it: with the bytes before it, or instead of them.
    pub fn finish(&mut self, at: u64, end: End) {
        if self.end.is_some() {
            return;
        }
        if end == End::Reset {
            self.chunks.clear();
            self.bytes = 0;
            self.last_at = at;
        }
        self.end = Some((self.last_at.max(at), end));
    }

    /// When the reader finds something next.
    pub fn next_at(&self) -> u64 {
        if self.deaf_after == Some(0) || self.ended {
            return NEVER;
        }
        let chunk = self.chunks.front().map(|(at, _)| *at);
        let end = self.end.map(|(at, _)| at);
        chunk.or(end).map_or(NEVER, |at| at.max(self.stalled_until))
    }

    /// What has arrived, at most `room` bytes, split where chance wants.
    pub fn read(&mut self, now: u64, room: usize, rng: &mut Rng) -> Read {
        if self.next_at() > now {
            return Read::Nothing;
        }
        let Some((_, front)) = self.chunks.front_mut() else {
            let Some((_, end)) = self.end else { return Read::Nothing };
            self.ended = true;
            return Read::End(end);
        };
        let mut take = front.len().min(room).min(self.deaf_after.unwrap_or(usize::MAX));
        if take > 1 && rng.below(4) == 0 {
            take = 1 + usize::try_from(rng.below(take as u64 - 1)).unwrap();
        }
        if take == 0 {
            return Read::Nothing;
        }
        self.bytes -= take;
        self.deaf_after = self.deaf_after.map(|left| left - take);
        if take == front.len() {
            let (_, bytes) = self.chunks.pop_front().unwrap();
            return Read::Bytes(bytes);
        }
        let rest = front.split_off(take);
        Read::Bytes(std::mem::replace(front, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_the_end_last() {
        let mut rng = Rng::new(3);
        let mut pipe = Pipe::default();
        pipe.write(10, b"abcdef");
        pipe.write(5, b"ghi");
        pipe.finish(7, End::Finished);
        assert_eq!(pipe.read(9, 100, &mut rng), Read::Nothing);
        let mut all = Vec::new();
        loop {
            match pipe.read(10, 2, &mut rng) {
                Read::Bytes(bytes) => all.extend(bytes),
                Read::End(end) => break assert_eq!(end, End::Finished),
                Read::Nothing => panic!("it is all there"),
            }
        }
        assert_eq!(all, b"abcdefghi");
        assert_eq!(pipe.next_at(), NEVER);
    }
}
