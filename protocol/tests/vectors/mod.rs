//! Messages and their bytes, written by hand from the tables in the protocol's documentation.

pub mod hxfr;
pub mod link;
pub mod mailbox;
pub mod stream;

/// A message and its bytes.
pub struct Vector<T> {
    /// Unique per message type; also the name of the fuzzer's seed file.
    pub name: &'static str,
    /// Hexadecimal digits; white space is ignored, `#` begins a comment.
    pub hex: &'static str,
    pub message: T,
}

impl<T> Vector<T> {
    pub fn bytes(&self) -> Vec<u8> {
        let digits: Vec<u8> = self
            .hex
            .lines()
            .flat_map(|line| line.split('#').next().expect("split gives one part").chars())
            .filter(|c| !c.is_whitespace())
            .map(|c| u8::try_from(c.to_digit(16).expect(self.name)).expect("a digit is below 16"))
            .collect();
        assert!(digits.len().is_multiple_of(2), "{}: half a byte", self.name);
        digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
    }
}
