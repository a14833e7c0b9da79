//! Bytes put together in memory that somebody else owns.

/// What has been put into it. What no longer fits is left out, and then there is nothing at all.
pub struct Text<'a> {
    memory: &'a mut [u8],
    /// `None` once something did not fit.
    length: Option<usize>,
}

impl<'a> Text<'a> {
    /// Nothing yet, with room for as much as `memory` holds.
    pub fn new(memory: &'a mut [u8]) -> Self {
        Text { memory, length: Some(0) }
    }

    /// Add bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        let Some(length) = self.length else { return };
        self.length = self.memory.get_mut(length..length + bytes.len()).map(|room| {
            room.copy_from_slice(bytes);
            length + bytes.len()
        });
    }

    /// Add a number's digits; `base` is at most ten.
    pub fn put_number(&mut self, mut number: u64, base: u64) {
        let mut digits = [0; u64::BITS as usize];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % base) as u8;
            number /= base;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[first..]);
    }

    /// Add what `read` reads into the memory that is left, of which it gives the length.
    pub fn put_read<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let Some(length) = self.length else { return Ok(()) };
        self.length = Some(length + read(&mut self.memory[length..])?);
        Ok(())
    }

    /// All of it; `None` where something did not fit.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.length.map(|length| &self.memory[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    fn put(size: usize, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut memory = vec![0xff; size];
        let mut text = Text::new(&mut memory);
        for part in parts {
            text.put(part);
        }
        text.bytes().map(<[u8]>::to_vec)
    }

    #[test]
    fn all_of_it_or_nothing() {
        assert_eq!(put(0, &[]).as_deref(), Some(&b""[..]));
        assert_eq!(put(5, &[b"ab", b"", b"cde"]).as_deref(), Some(&b"abcde"[..]));
        assert_eq!(put(4, &[b"ab", b"cde"]), None);
        // Not even what would still fit.
        assert_eq!(put(4, &[b"ab", b"cde", b"f"]), None);
    }

    #[test]
    fn numbers() {
        for (number, base, expected) in [(0, 10, "0"), (7, 8, "7"), (0o1777, 8, "1777"), (1234, 10, "1234"), (u64::MAX, 2, &"1".repeat(64))]
        {
            let mut memory = [0; 64];
            let mut text = Text::new(&mut memory);
            text.put_number(number, base);
            assert_eq!(text.bytes(), Some(expected.as_bytes()));
        }
    }
}
