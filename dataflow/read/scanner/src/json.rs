//! A strict reader of the JSON that trackers send. It builds nothing: it checks, and says where things are.
//!
//! It knows less than JSON allows, on purpose. Whatever is rare or a matter of taste (escapes where a text matters,
//! exponents, very long numbers, deep nesting) is `Odd`, and left to the reader in Python, which defines what is read.
//! So what this accepts, that one accepts too, and the two can never disagree on what they both read.

/// Something that is not for this reader: wrong, or right in a way that it does not know.
#[derive(Debug, PartialEq, Eq)]
pub struct Odd;

/// What a reader finds, or that it is not for us.
pub type Read<T> = Result<T, Odd>;

const DEPTH_MAX: usize = 32;
const PASSED_DEPTH_MAX: usize = 128; // Python's parser and writer go deeper, so here neither of them gives up.
const DIGITS_MAX: usize = 300; // Fewer cannot be beyond the largest double.

/// A JSON value: what it is, and its text where that matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// The text of a number.
    Number(&'a str),
    /// A text between its quotes, as it is written.
    Text {
        text: &'a str,
        escaped: bool,
    },
    Object(&'a str),
    List(&'a str),
}

/// Where a reader stands in a text.
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Reader { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Read<()> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Odd)
        }
    }

    fn slice(&self, start: usize) -> Read<&'a str> {
        self.text.get(start..self.at).ok_or(Odd)
    }

    /// Check that nothing but blanks is left.
    pub fn end(&mut self) -> Read<()> {
        self.skip_blanks();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(Odd)
        }
    }

    /// Go into a list; return whether it has items.
    pub fn enter(&mut self) -> Read<bool> {
        self.skip_blanks();
        self.expect(b'[')?;
        self.skip_blanks();
        let has_items = self.peek() != Some(b']');
        self.at += usize::from(!has_items);
        Ok(has_items)
    }

    /// Go on behind an item of a list; return whether another one follows.
    pub fn go_on(&mut self) -> Read<bool> {
        self.skip_blanks();
        let has_more = self.peek() == Some(b',');
        if !has_more {
            self.expect(b']')?;
        }
        self.at += usize::from(has_more);
        Ok(has_more)
    }

    /// Return the text of the value that `read` reads here, and what it makes of it; where that is odd, the reader
    /// only passes over the value.
    pub fn value_by<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<(&'a str, Read<T>)> {
        self.skip_blanks();
        let start = self.at;
        let found = read(self);
        if found.is_err() {
            self.at = start;
            self.pass()?;
        }
        Ok((self.slice(start)?, found))
    }

    /// Pass over a value: to where it ends, if it is one at all, which is not checked.
    fn pass(&mut self) -> Read<()> {
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.pass_text()?;
                    continue;
                }
                Some(b'[' | b'{') if depth < PASSED_DEPTH_MAX => depth += 1,
                Some(b']' | b'}' | b',') if depth == 0 => return Ok(()),
                Some(b']' | b'}') => depth -= 1,
                None | Some(b'[' | b'{') => return Err(Odd),
                _ => {}
            }
            self.at += 1;
        }
    }

    fn pass_text(&mut self) -> Read<()> {
        self.at += 1;
        loop {
            self.at += plain_bytes(self.text.as_bytes().get(self.at..).ok_or(Odd)?);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2, // Whatever that is, it does not end the text.
                _ => return Err(Odd),
            }
        }
    }

    /// Read an object, and show each key with its value to `visit`. A key with an escape is `Odd`: it may be any key.
    pub fn object(&mut self, mut visit: impl FnMut(&'a str, Value<'a>) -> Read<()>) -> Read<()> {
        self.skip_blanks();
        self.members(1, &mut |key, escaped, value| {
            if escaped {
                return Err(Odd);
            }
            visit(key, value)
        })
    }

    fn members(&mut self, depth: usize, visit: &mut dyn FnMut(&'a str, bool, Value<'a>) -> Read<()>) -> Read<()> {
        if depth > DEPTH_MAX {
            return Err(Odd);
        }
        self.expect(b'{')?;
        self.skip_blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_blanks();
            let (key, escaped) = self.quoted()?;
            self.skip_blanks();
            self.expect(b':')?;
            let value = self.value(depth)?;
            visit(key, escaped, value)?;
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(Odd),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Read<()> {
        if depth > DEPTH_MAX {
            return Err(Odd);
        }
        self.expect(b'[')?;
        self.skip_blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(Odd),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Read<Value<'a>> {
        self.skip_blanks();
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                let (text, escaped) = self.quoted()?;
                Ok(Value::Text { text, escaped })
            }
            Some(b'{') => {
                self.members(depth + 1, &mut |_, _, _| Ok(()))?;
                Ok(Value::Object(self.slice(start)?))
            }
            Some(b'[') => {
                self.list(depth + 1)?;
                Ok(Value::List(self.slice(start)?))
            }
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => {
                self.number()?;
                Ok(Value::Number(self.slice(start)?))
            }
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Read<Value<'a>> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(Odd)
        }
    }

    /// Read a text in quotes; return what stands between them, and whether that has escapes.
    fn quoted(&mut self) -> Read<(&'a str, bool)> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_bytes(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    let text = self.slice(start)?;
                    self.at += 1;
                    return Ok((text, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => self.character()?,
                        _ => return Err(Odd),
                    }
                }
                _ => return Err(Odd),
            }
        }
    }

    /// Read the `uXXXX` of a character; that of half a one is left alone, as it may have no other half.
    fn character(&mut self) -> Read<()> {
        let digits = self.text.as_bytes().get(self.at + 1..self.at + 5).ok_or(Odd)?;
        let is_half = digits[0].eq_ignore_ascii_case(&b'd') && !(b'0'..=b'7').contains(&digits[1]);
        if is_half || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Odd);
        }
        self.at += 5;
        Ok(())
    }

    fn digits(&mut self) -> Read<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            Err(Odd)
        } else {
            Ok(())
        }
    }

    fn number(&mut self) -> Read<()> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        // A digit behind a leading zero, or an exponent, is no end of a number; the caller expects one.
        if self.at - start > DIGITS_MAX {
            Err(Odd)
        } else {
            Ok(())
        }
    }
}

/// Count the bytes before the first quote, backslash or control character.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    let mut counted = 0;
    // Eight at a time: a byte below `n` borrows from its top bit when `n` is taken from it, and has none itself.
    for eight in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word;
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = (below(word, u64::from(b' ')) | quote | backslash) & TOPS;
        if found != 0 {
            return counted + found.trailing_zeros() as usize / 8;
        }
        counted += 8;
    }
    let rest = &bytes[counted..];
    counted + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_object(text: &str) -> bool {
        let mut reader = Reader::new(text);
        reader.object(|_, _| Ok(())).and_then(|()| reader.end()).is_ok()
    }

    #[test]
    fn what_is_json_and_plain_is_read() {
        for text in [
            "{}",
            " {\"a\" : [1, -0.5, true,null, {\"b\":\"\\n\"}]}\n",
            "{\"\":0,\"\":[]}",
            "{\"é\":\"加购\"}",
            "{\"a\":\"\\u0041\\u52a0\\uD7FF\\uE000\\u0000\"}",
        ] {
            assert!(is_object(text), "{text}");
        }
    }

    #[test]
    fn a_text_ends_at_its_first_special_byte_wherever_that_stands() {
        for length in 0..40 {
            for (at, special) in (0..length).flat_map(|at| [0, 0x1f, b'"', b'\\'].map(|special| (at, special))) {
                let mut bytes: Vec<u8> =
                    (0..length).map(|n| [b' ', b'!', b'#', 0x7f, 0x80, 0xff, b'['][n % 7]).collect();
                assert_eq!(plain_bytes(&bytes), length);
                bytes[at] = special;
                assert_eq!(plain_bytes(&bytes), at);
                bytes[length - 1] = b'"';
                assert_eq!(plain_bytes(&bytes), at);
            }
        }
    }

    #[test]
    fn what_is_no_json_or_not_plain_is_odd() {
        for text in [
            "",
            "{",
            "}",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":01}",
            "{\"a\":1e5}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":tru}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\ud83d\\ude00\"}",
            "{\"a\":\"\\uDBFF\"}",
            "{\"a\":\"\\u00g0\"}",
            "{\"a\":\"\\u00",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"}",
            "{\"a\":1}}",
            "{\"a\":1} x",
            "{'a':1}",
            "{\"\\n\":1}",
            "{\"a\":[1,]}",
            "{\"a\":[1 2]}",
            "{\"a\":\"\\",
            "{\"a\":NaN}",
        ] {
            assert!(!is_object(text), "{text}");
        }
        assert!(!is_object(&format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40))));
        assert!(!is_object(&format!("{{\"a\":{}}}", "1".repeat(400))));
    }
}
