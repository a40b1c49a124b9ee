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
    fn area(&self) -> f64;
    fn twice(&self) -> f64 {
        2.0 * self.area()
    }
}

enum Kind { A, B }

mod tests {
    use super::*;

    #[test]
    fn works() {
        assert!(true);
    }
}
