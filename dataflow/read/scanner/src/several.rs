//! The records of a text that has several: a list, or JSON lines.

use crate::event;
use crate::json::{Odd, Read, Reader};

/// Python measures an item as it writes it itself. Of what is plain, that is at most twice as long as it was sent.
const ITEM_BYTES_MAX: usize = event::BYTES_MAX / 2;

/// A record as it was sent.
#[derive(Debug, PartialEq)]
pub enum Sent<'a> {
    /// A sound event, and its user.
    Plain(&'a str, &'a [u8]),
    /// Something to be looked at more closely. Of a list it may be no JSON at all, and then the whole is none.
    Open(&'a [u8]),
}

/// Return the items of a list; `Odd` where they are more than `most`, and where it is not sure what they are.
pub fn items(body: &[u8], most: usize) -> Read<Vec<Sent<'_>>> {
    let mut reader = Reader::new(std::str::from_utf8(body).map_err(|_| Odd)?);
    let mut found = Vec::new();
    let mut has_more = reader.enter()?;
    while has_more {
        if found.len() == most {
            return Err(Odd);
        }
        let (text, event) = reader.value_by(event::read_from)?;
        found.push(match event {
            Ok(event) if text.len() <= ITEM_BYTES_MAX => Sent::Plain(event.user_id, text.as_bytes()),
            _ => Sent::Open(text.as_bytes()),
        });
        has_more = reader.go_on()?;
    }
    reader.end()?;
    Ok(found)
}

/// Return the lines of a text that are not blank.
pub fn lines(body: &[u8]) -> Vec<Sent<'_>> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(is_blank));
    lines.map(|line| event::read(line).map_or(Sent::Open(line), |event| Sent::Plain(event.user_id, line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "{\"user_id\":\"u\",\"event\":\"e\"}";

    fn texts<'a>(found: &'a [Sent<'a>]) -> Vec<(bool, &'a str)> {
        let text = |one: &'a [u8]| std::str::from_utf8(one).unwrap_or("?");
        found
            .iter()
            .map(|one| match one {
                Sent::Plain(_, raw) => (true, text(raw)),
                Sent::Open(raw) => (false, text(raw)),
            })
            .collect()
    }

    fn found_in(list: &str) -> Option<Vec<(bool, String)>> {
        let found = items(list.as_bytes(), 9).ok()?;
        Some(texts(&found).into_iter().map(|(is_plain, text)| (is_plain, text.to_owned())).collect())
    }

    #[test]
    fn a_list_is_taken_apart_whatever_its_items_are() {
        assert_eq!(found_in("[]"), Some(vec![]));
        assert_eq!(found_in(" [ ] "), Some(vec![]));
        for odd in
            ["7", "null", "{}", "[[],[{}]]", "\"a,]}\\\"[\\\\\"", "{\"a\":\"\\ud83d\"}", "1e5", "[}", "+", "\"\\é\""]
        {
            let expected = vec![(true, PLAIN.to_owned()), (false, odd.to_owned()), (true, PLAIN.to_owned())];
            assert_eq!(found_in(&format!("[{PLAIN},{odd},{PLAIN}]")), Some(expected.clone()), "{odd}");
            assert_eq!(found_in(&format!("\n[ {PLAIN} ,\t{odd},\r\n{PLAIN}\n]\n")), Some(expected), "{odd}");
        }
    }

    #[test]
    fn what_is_no_list_is_odd() {
        for odd in [
            "", "[", "]", "{}", "[1", "[1,", "[\"", "[\"]", "[\"\\", "[\"\n\"]", "[1]]", "[1] 2", "[1}", "[[1]", "[1][",
        ] {
            assert_eq!(found_in(odd), None, "{odd}");
        }
        assert_eq!(items(b"[\"\xff\"]", 9), Err(Odd));
        assert_eq!(found_in(&format!("[{}{}]", "[".repeat(200), "]".repeat(200))), None);
        assert_eq!(found_in("[0,0,0,0,0,0,0,0,0]").map(|found| found.len()), Some(9));
        assert_eq!(found_in("[0,0,0,0,0,0,0,0,0,0]"), None);
    }

    #[test]
    fn between_two_commas_there_is_something_even_if_it_is_nothing() {
        assert_eq!(found_in("[,]"), Some(vec![(false, String::new()), (false, String::new())]));
        assert_eq!(found_in("[1,]"), Some(vec![(false, "1".to_owned()), (false, String::new())]));
    }

    #[test]
    fn an_item_that_may_be_too_long_is_looked_at_more_closely() {
        let longest = PLAIN.replace("\"e\"", &format!("\"e\",\"x\":\"{}\"", "x".repeat(ITEM_BYTES_MAX - 35)));
        let list = format!("[{longest},{}]", longest.replace("xx", "xxx"));
        let found = items(list.as_bytes(), 9).unwrap_or_default();
        assert!(matches!(found[..], [Sent::Plain("u", raw), Sent::Open(_)] if raw.len() <= ITEM_BYTES_MAX));
    }

    #[test]
    fn lines_that_are_not_blank_are_found() {
        let body = format!("\n{PLAIN}\r\n \t\x0b\x0c\r\n{{\n{PLAIN}");
        let first = format!("{PLAIN}\r");
        assert_eq!(texts(&lines(body.as_bytes())), [(true, &first[..]), (false, "{"), (true, PLAIN)]);
        assert_eq!(lines(b"\xff"), [Sent::Open(b"\xff")]);
    }
}
