//! The crate.

use std::fmt;

/// A point.
#[derive(Debug)]
pub struct Point<T> {
    x: T,
}

impl<T> fmt::Display for Point<T> {
    /// Writes it.
    #[inline]
    fn fmt(&self) -> fmt::Result {
        Ok(())
    }
}

pub trait Area {
    type Unit;
    /// The area.
    fn area(&self) -> f64;
    fn twice(&self) -> f64 {
        2.0 * self.area()
    }
}

impl Area for (u8, u8) {
    type Unit = u8;
    fn area(&self) -> f64 {
        0.0
    }
}

impl Area for dyn Shape + Send {
    fn area(&self) -> f64 {
        1.0
    }
}

enum Kind { A, B }
union Bits { a: u32, b: f32 }
type Pair = (u8, u8);

#[doc = "Squares."]
#[macro_export]
macro_rules! square {
    ($x:expr) => { $x * $x };
}

const DOUBLE: fn(u8) -> u8 = |x| { x * 2 };

extern "C" {
    /// Prints.
    fn puts(s: *const u8) -> i32;
}

pub const unsafe extern "C" fn raw() {}

cfg_rt! {
    /// Spawns.
    pub async fn spawn() {
        run().await
    }

    impl Pool {
        fn size(&self) -> usize { 1 }
    }
}

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        fn home() -> Path { unix_home() }
    } else if #[cfg(windows)] {
        /// The profile.
        fn profile() -> Path { windows_home() }
    }
}

pin_project! {
    /// A future.
    pub struct Delay { #[pin] timer: Timer }
}

fn benchmarks(c: &mut Criterion) {
    let local = |x| { x };
    c.bench_function("fib 20", |b| {
        b.iter(|| fib(20))
    });
}

case!(finds_dots, |dir: Dir, mut cmd: Command| {
    cmd.run(dir);
});

#[cfg(test)]
mod tests {
    //! Tests.
    use super::*;

    #[test]
    fn works() {
        assert!(true);
    }

    proptest! {
        #[test]
        fn adds(x in 0..3) { check(x); }
    }
}
