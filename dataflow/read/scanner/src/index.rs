//! The match index as `operators/conditions/index.py` has built it, asked about an event's text instead of a dict.
//!
//! Only the values that some condition asks for are looked at. What a condition asks that is not known here is left to
//! its Python function; a value that this reader does not know is `Odd`, and the event is left to Python altogether.

use rustc_hash::FxHashMap;

use crate::json::{Odd, Read, Reader, Value};
use crate::time;

/// Up to here integers and doubles are the same numbers. `operators/conditions/index.py` keeps to it.
pub const EXACT_MAX: u64 = 1 << 53;

/// The value of a property, as far as conditions can tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'a> {
    /// There is none, or it is null.
    Nothing,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    List,
    Object,
}

/// A number that a condition names, or an event has: an integer, if it is whole.
fn number(text: &str) -> Read<Found<'_>> {
    if text.contains('.') {
        let value: f64 = text.parse().map_err(|_| Odd)?;
        if value.abs() >= EXACT_MAX as f64 {
            return Err(Odd);
        }
        return Ok(Found::Float(value));
    }
    match text.parse::<i64>() {
        Ok(value) if value.unsigned_abs() <= EXACT_MAX => Ok(Found::Int(value)),
        _ => Err(Odd),
    }
}

fn found(value: Value<'_>) -> Read<Found<'_>> {
    match value {
        Value::Null => Ok(Found::Nothing),
        Value::Bool(truth) => Ok(Found::Bool(truth)),
        Value::Number(text) => number(text),
        Value::Text { escaped: true, .. } => Err(Odd),
        Value::Text { text, .. } => Ok(Found::Text(text)),
        Value::List(_) => Ok(Found::List),
        Value::Object(_) => Ok(Found::Object),
    }
}

/// What a test compares with.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    Bool(bool),
    Number(f64),
    Text(String),
}

/// A test of one property; `slot` says which.
pub enum Test {
    Equal(Wanted),
    In(Lookup<()>),
    More { than: Wanted, or_equal: bool },
    Less { than: Wanted, or_equal: bool },
    Contains(Wanted),
    StartsWith(String),
    EndsWith(String),
    Exists(bool),
    Before(i64),
    After(i64),
}

/// Things by the value of a property: numbers by what they are, however they are written.
#[derive(Default)]
pub struct Lookup<T> {
    texts: FxHashMap<String, T>,
    numbers: FxHashMap<u64, T>,
    truths: [Option<T>; 2],
}

impl<T: Default> Lookup<T> {
    /// Return what there is for a value that a condition names; something new, if there is nothing.
    pub fn of(&mut self, wanted: Wanted) -> &mut T {
        match wanted {
            Wanted::Text(text) => self.texts.entry(text).or_default(),
            Wanted::Number(value) => self.numbers.entry(bits(value)).or_default(),
            Wanted::Bool(truth) => self.truths[usize::from(truth)].get_or_insert_default(),
        }
    }

    fn find(&self, value: Found) -> Option<&T> {
        match value {
            Found::Text(text) => self.texts.get(text),
            Found::Int(value) => self.numbers.get(&bits(value as f64)),
            Found::Float(value) => self.numbers.get(&bits(value)),
            Found::Bool(truth) => self.truths[usize::from(truth)].as_ref(),
            _ => None,
        }
    }
}

/// Return what identifies a number: there are two zeros, and they are equal.
fn bits(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

/// A condition, or a part of one.
pub enum Condition {
    Test {
        slot: usize,
        test: Test,
    },
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    /// The Python function of this number.
    Python(usize),
}

/// An interest that is a candidate once it was found, and what is left to ask.
pub struct Candidate {
    pub number: u32,
    pub rest: Option<Condition>,
}

/// The candidates that the value of one property leads to.
pub struct Equalities {
    pub slot: usize,
    pub table: Lookup<Vec<Candidate>>,
}

impl Equalities {
    fn candidates(&self, value: Found) -> &[Candidate] {
        self.table.find(value).map_or(&[], Vec::as_slice)
    }
}

/// Candidates by a bound of one property, in its order: those from it on, or those up to it.
pub struct Bounds {
    pub slot: usize,
    pub is_lower: bool,
    pub bounds: Vec<f64>,
    pub candidates: Vec<Candidate>,
}

impl Bounds {
    fn candidates(&self, value: Found) -> &[Candidate] {
        let value = match value {
            Found::Int(value) => value as f64,
            Found::Float(value) => value,
            _ => return &[],
        };
        if self.is_lower {
            &self.candidates[..self.bounds.partition_point(|bound| *bound <= value)]
        } else {
            &self.candidates[self.bounds.partition_point(|bound| *bound < value)..]
        }
    }
}

/// Where the wanted properties are: the keys of one object, each with the slot of its value and what is inside it.
#[derive(Default)]
struct Node {
    keys: FxHashMap<String, (usize, Node)>,
}

impl Node {
    /// Return the slot of the property at `path`; `slots` counts those that there are.
    fn slot(&mut self, path: &[String], slots: &mut usize) -> usize {
        let (slot, inner) = self.keys.entry(path[0].clone()).or_insert_with(|| {
            *slots += 1;
            (*slots - 1, Node::default())
        });
        if path.len() == 1 {
            *slot
        } else {
            inner.slot(&path[1..], slots)
        }
    }
}

fn pick<'a>(text: &'a str, node: &Node, slots: &mut [Option<Found<'a>>]) -> Read<()> {
    Reader::new(text).object(|key, value| {
        let Some((slot, inner)) = node.keys.get(key) else {
            return Ok(());
        };
        // A slot that is null was seen, one that is empty was not.
        if slots[*slot].replace(found(value)?).is_some() {
            return Err(Odd); // Of two the last one counts, with all that is inside it.
        }
        match value {
            Value::Object(text) if !inner.keys.is_empty() => pick(text, inner, slots),
            _ => Ok(()),
        }
    })
}

/// The interests in one event name.
#[derive(Default)]
pub struct Interests {
    pub always: Vec<u32>,
    pub equalities: Vec<Equalities>,
    pub bounds: Vec<Bounds>,
    pub tried: Vec<Candidate>,
    wanted: Node,
    slots: usize,
}

impl Interests {
    /// Return the slot of the property at `path`.
    pub fn slot(&mut self, path: &[String]) -> usize {
        self.wanted.slot(path, &mut self.slots)
    }

    /// Add the numbers of all interests that an event satisfies to `hits`, ascending.
    ///
    /// `python` tells whether the Python function of a number holds.
    pub fn matched<E: From<Odd>>(
        &self,
        properties: Option<&str>,
        hits: &mut Vec<u32>,
        mut python: impl FnMut(usize) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut few = [None; 16];
        let mut many;
        let slots: &mut [Option<Found>] = if self.slots <= few.len() {
            &mut few[..self.slots]
        } else {
            many = vec![None; self.slots];
            &mut many
        };
        if let (Some(text), true) = (properties, self.slots > 0) {
            pick(text, &self.wanted, slots)?;
        }
        let value = |slot: usize| slots[slot].unwrap_or(Found::Nothing);
        let mut consider = |candidates: &[Candidate], hits: &mut Vec<u32>| -> Result<(), E> {
            for candidate in candidates {
                let holds = match &candidate.rest {
                    None => true,
                    Some(rest) => holds(rest, &value, &mut python)?,
                };
                if holds {
                    hits.push(candidate.number);
                }
            }
            Ok(())
        };
        hits.extend(&self.always);
        for equalities in &self.equalities {
            consider(equalities.candidates(value(equalities.slot)), hits)?;
        }
        for bounds in &self.bounds {
            consider(bounds.candidates(value(bounds.slot)), hits)?;
        }
        consider(&self.tried, hits)?;
        if hits.len() > 1 {
            hits.sort_unstable();
        }
        Ok(())
    }
}

fn holds<'a, E: From<Odd>>(
    condition: &Condition,
    value: &impl Fn(usize) -> Found<'a>,
    python: &mut impl FnMut(usize) -> Result<bool, E>,
) -> Result<bool, E> {
    match condition {
        Condition::Test { slot, test } => Ok(passes(test, value(*slot))?),
        Condition::All(parts) => {
            for part in parts {
                if !holds(part, value, python)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Condition::Any(parts) => {
            for part in parts {
                if holds(part, value, python)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Condition::Not(part) => Ok(!holds(part, value, python)?),
        Condition::Python(number) => python(*number),
    }
}

fn passes(test: &Test, value: Found) -> Read<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    Ok(match test {
        Test::Equal(wanted) => compare(value, wanted) == Some(Equal),
        Test::In(members) => members.find(value).is_some(),
        Test::More { than, or_equal } => match compare(value, than) {
            Some(Greater) => true,
            Some(Equal) => *or_equal,
            _ => false,
        },
        Test::Less { than, or_equal } => match compare(value, than) {
            Some(Less) => true,
            Some(Equal) => *or_equal,
            _ => false,
        },
        Test::Contains(wanted) => match (value, wanted) {
            (Found::List, _) => return Err(Odd),
            (Found::Text(text), Wanted::Text(wanted)) => text.contains(wanted),
            _ => false,
        },
        Test::StartsWith(wanted) => matches!(value, Found::Text(text) if text.starts_with(wanted)),
        Test::EndsWith(wanted) => matches!(value, Found::Text(text) if text.ends_with(wanted)),
        Test::Exists(wanted) => (value != Found::Nothing) == *wanted,
        Test::Before(moment) => matches!(value, Found::Text(text) if time::parse(text)? < *moment),
        Test::After(moment) => matches!(value, Found::Text(text) if time::parse(text)? > *moment),
    })
}

/// Compare two scalars of one kind: numbers by value, texts by their characters; `None` for different kinds.
fn compare(value: Found, wanted: &Wanted) -> Option<std::cmp::Ordering> {
    match (value, wanted) {
        (Found::Bool(value), Wanted::Bool(wanted)) => Some(value.cmp(wanted)),
        (Found::Int(value), Wanted::Number(wanted)) => (value as f64).partial_cmp(wanted),
        (Found::Float(value), Wanted::Number(wanted)) => value.partial_cmp(wanted),
        (Found::Text(value), Wanted::Text(wanted)) => Some(value.cmp(wanted.as_str())),
        _ => None,
    }
}
