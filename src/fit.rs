//! Numbers from one width to another. A value that does not fit is a mistake of this program, and
//! it stops there: a wrong number in its place would be believed. What comes from outside (bytes
//! of a peer, a file, the configuration) is checked with `try_from` and is an error, never this.

use core::fmt::Display;
use core::time::Duration;

// All routers and all hosts: what is not so does not build.
const _: () = assert!(size_of::<usize>() >= 4 && size_of::<usize>() <= 8);

/// `value` in another width. `what` is said in the panic.
///
/// # Panics
/// When it does not fit. The caller knows a bound that says it does.
#[inline]
#[track_caller]
pub fn fit<T, U>(value: U, what: &'static str) -> T
where
    U: Copy + Display,
    T: TryFrom<U>,
{
    match T::try_from(value) {
        Ok(fits) => fits,
        Err(_) => does_not_fit(&value, what),
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn does_not_fit(value: &dyn Display, what: &'static str) -> ! {
    panic!("{what}: {value} does not fit")
}

/// `value` in a narrower width, where the greatest there is may stand for all that is greater. The
/// line above the call says why it may.
#[inline]
pub fn capped<T, U>(value: U) -> T
where
    T: TryFrom<U> + Bounded,
{
    T::try_from(value).unwrap_or(T::GREATEST)
}

/// Unsigned numbers with a greatest one.
pub trait Bounded {
    const GREATEST: Self;
}

macro_rules! bounded {
    ($($kind:ty),*) => { $(impl Bounded for $kind { const GREATEST: Self = <$kind>::MAX; })* };
}
bounded!(u16, u32, u64, usize);

/// A count or a size as 64 bits: always right.
#[inline]
pub fn wide(value: usize) -> u64 {
    match u64::try_from(value) {
        Ok(wide) => wide,
        // `usize` has at most 64 bits.
        Err(_) => unreachable!("more than 64 bits"),
    }
}

/// A 32-bit number as an index: always right.
#[inline]
pub fn index(value: u32) -> usize {
    match usize::try_from(value) {
        Ok(index) => index,
        // `usize` has at least 32 bits.
        Err(_) => unreachable!("fewer than 32 bits"),
    }
}

/// Whole milliseconds. The longest there are stand for all that is longer (half a billion years).
#[inline]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Whole microseconds; the longest there are stand for all that is longer.
#[inline]
pub fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_the_same_number() {
        assert_eq!(fit::<u16, usize>(65_535, "bytes"), 65_535);
        assert_eq!(fit::<u32, u64>(7, "bytes"), 7);
        assert_eq!((wide(4_000_000_000), index(u32::MAX)), (4_000_000_000, 4_294_967_295));
    }

    #[test]
    #[should_panic(expected = "topic bytes: 65536 does not fit")]
    fn what_does_not_is_no_other_number() {
        let _: u16 = fit(65_536_usize, "topic bytes");
    }

    #[test]
    fn what_is_capped_stays_the_greatest() {
        assert_eq!(capped::<u16, u64>(65_535), 65_535);
        assert_eq!(capped::<u16, u64>(65_536), 65_535);
        assert_eq!(capped::<u32, u64>(u64::MAX), u32::MAX);
    }

    #[test]
    fn the_longest_spans_stand_for_longer_ones() {
        assert_eq!(millis(Duration::from_micros(2999)), 2);
        assert_eq!(millis(Duration::MAX), u64::MAX);
        assert_eq!(micros(Duration::from_millis(3)), 3000);
        assert_eq!(micros(Duration::MAX), u64::MAX);
    }
}
