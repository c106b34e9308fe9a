//! The fields of an event, read from the bytes of a record.

use crate::json::{Odd, Read, Reader, Value};
use crate::time;

const BYTES_MAX: usize = 1_048_576;
const USER_ID_MAX: usize = 256;
const NAME_MAX: usize = 128;
const MESSAGE_ID_MAX: usize = 256;

/// A sound event without traits; times in ms since 1970 UTC.
#[derive(Debug, PartialEq)]
pub struct Event<'a> {
    pub user_id: &'a str,
    pub name: &'a str,
    /// What was sent, if that is more than nothing.
    pub message_id: Option<&'a str>,
    pub at_ms: Option<i64>,
    pub received_ms: Option<i64>,
    /// The object's text.
    pub properties: Option<&'a str>,
}

/// Return the event that a record is; `Odd` for any other kind of record, and for whatever needs a closer look.
pub fn read(raw: &[u8]) -> Read<Event<'_>> {
    if raw.len() > BYTES_MAX {
        return Err(Odd);
    }
    let text = std::str::from_utf8(raw).map_err(|_| Odd)?;
    let (mut user_id, mut name, mut message_id) = (None, None, None);
    let (mut at_ms, mut received_ms, mut properties) = (None, None, None);
    let mut seen = 0_u32;
    let mut reader = Reader::new(text);
    reader.object(|key, value| {
        let field = match key {
            "user_id" => 0,
            "event" => 1,
            "message_id" => 2,
            "timestamp" => 3,
            "received_at" => 4,
            "properties" => 5,
            "traits" => 6,
            "type" => 7,
            "action_id" => 8,
            "audience" => 9,
            _ => return Ok(()),
        };
        if seen & (1 << field) != 0 {
            return Err(Odd); // Of two the last one counts, whatever the first one says.
        }
        seen |= 1 << field;
        match (field, value) {
            (0, _) => user_id = Some(short(value, USER_ID_MAX)?),
            (1, _) => name = Some(short(value, NAME_MAX)?),
            (_, Value::Null) => {}
            (2, _) => message_id = Some(short(value, MESSAGE_ID_MAX)?),
            (3, _) => at_ms = Some(moment(value)?),
            (4, _) => received_ms = Some(moment(value)?),
            (5, Value::Object(text)) => properties = Some(text),
            (7, Value::Text { text, escaped: false }) if text != "identify" => {}
            _ => return Err(Odd),
        }
        Ok(())
    })?;
    reader.end()?;
    match (user_id, name) {
        (Some(user_id), Some(name)) if !user_id.is_empty() && !name.is_empty() => Ok(Event {
            user_id,
            name,
            message_id: message_id.filter(|id| !id.is_empty()),
            at_ms,
            received_ms,
            properties,
        }),
        _ => Err(Odd),
    }
}

/// Return a text of no more bytes than it may have characters.
fn short<'a>(value: Value<'a>, most: usize) -> Read<&'a str> {
    match value {
        Value::Text { text, escaped: false } if text.len() <= most => Ok(text),
        _ => Err(Odd),
    }
}

fn moment(value: Value) -> Read<i64> {
    match value {
        Value::Text { text, escaped: false } => time::parse(text),
        Value::Number(text) => match text.parse::<i64>() {
            Ok(ms) if (0..=time::TIME_MS_MAX).contains(&ms) => Ok(ms),
            _ => Err(Odd),
        },
        _ => Err(Odd),
    }
}
