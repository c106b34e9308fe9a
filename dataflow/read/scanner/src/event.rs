//! The fields of an event, read from the bytes of a record.

use crate::json::{Odd, Read, Reader, Value};
use crate::time;

// As in `connectors/formats/native.py`, where texts are measured in characters, which are never more than bytes.
pub const BYTES_MAX: usize = 1_048_576;
const USER_ID_MAX: usize = 256;
const NAME_MAX: usize = 128;
const MESSAGE_ID_MAX: usize = 256;

/// The fields that decide what a record is. All others may be anything.
#[derive(Clone, Copy)]
enum Field {
    UserId,
    Event,
    MessageId,
    Timestamp,
    ReceivedAt,
    Properties,
    Type,
    Traits,
    ActionId,
    Audience,
}

const FIELDS: usize = Field::Audience as usize + 1;

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
    let mut reader = Reader::new(std::str::from_utf8(raw).map_err(|_| Odd)?);
    let event = read_from(&mut reader)?;
    reader.end()?;
    Ok(event)
}

/// Return the event that stands where a reader is.
pub fn read_from<'a>(reader: &mut Reader<'a>) -> Read<Event<'a>> {
    let (mut user_id, mut name, mut message_id) = (None, None, None);
    let (mut at_ms, mut received_ms, mut properties) = (None, None, None);
    let mut seen: [bool; FIELDS] = [false; FIELDS];
    reader.object(|key, value| {
        let field = match key {
            "user_id" => Field::UserId,
            "event" => Field::Event,
            "message_id" => Field::MessageId,
            "timestamp" => Field::Timestamp,
            "received_at" => Field::ReceivedAt,
            "properties" => Field::Properties,
            "type" => Field::Type,
            "traits" => Field::Traits,
            "action_id" => Field::ActionId,
            "audience" => Field::Audience,
            _ => return Ok(()),
        };
        if std::mem::replace(&mut seen[field as usize], true) {
            return Err(Odd); // Of two the last one counts, whatever the first one says.
        }
        match (field, value) {
            (Field::UserId, _) => user_id = Some(short(value, USER_ID_MAX)?),
            (Field::Event, _) => name = Some(short(value, NAME_MAX)?),
            (_, Value::Null) => {}
            (Field::MessageId, _) => message_id = Some(short(value, MESSAGE_ID_MAX)?),
            (Field::Timestamp, _) => at_ms = Some(moment(value)?),
            (Field::ReceivedAt, _) => received_ms = Some(moment(value)?),
            (Field::Properties, Value::Object(text)) => properties = Some(text),
            (Field::Type, Value::Text { text, escaped: false }) if text != "identify" => {}
            // Traits, or another kind of record.
            _ => return Err(Odd),
        }
        Ok(())
    })?;
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
            Ok(ms) if (time::NUMBER_MS_MIN..=time::TIME_MS_MAX).contains(&ms) => Ok(ms),
            _ => Err(Odd),
        },
        _ => Err(Odd),
    }
}
