//! Reads the batches of a source partition: `Intake` in `dataflow/read/intake.py` says what has to come of them.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList};
use rustc_hash::FxHashMap;

use crate::event::{self, Event};
use crate::index::{Bounds, Candidate, Condition, Equalities, Interests, Lookup, Test, Wanted, EXACT_MAX};
use crate::json::Odd;
use crate::pack;
use crate::time::TIME_MS_MAX;

/// Why an event is not handled here.
enum Stop {
    Odd,
    Failed(PyErr),
}

impl From<Odd> for Stop {
    fn from(_: Odd) -> Self {
        Stop::Odd
    }
}

impl From<PyErr> for Stop {
    fn from(error: PyErr) -> Self {
        Stop::Failed(error)
    }
}

struct Index {
    names: FxHashMap<String, Interests>,
    judges: Vec<Py<PyAny>>,
    loads: Py<PyAny>,
}

/// The interests of all flows in events, by name: what `MatchIndex.table` returns, made for looking things up.
///
/// Args:
///     table: see `operators/conditions/index.py`.
///     loads: reads JSON, for conditions that only Python can judge.
#[pyclass(frozen, module = "dataflow.read._scanner")]
pub struct Table(Arc<Index>);

#[pymethods]
impl Table {
    #[new]
    fn new(table: &Bound<'_, PyDict>, loads: Py<PyAny>) -> PyResult<Self> {
        let mut judges = Vec::new();
        let mut names = FxHashMap::default();
        for (name, found) in table {
            names.insert(name.extract()?, interests(&found, &mut judges)?);
        }
        Ok(Table(Arc::new(Index { names, judges, loads })))
    }
}

type RowsOf<'py> = Vec<(Vec<String>, Vec<(Bound<'py, PyAny>, u32, Bound<'py, PyAny>)>)>;
type Rows<'py> = (Vec<u32>, RowsOf<'py>, RowsOf<'py>, RowsOf<'py>, Vec<(u32, Bound<'py, PyAny>)>);

fn interests(found: &Bound<'_, PyAny>, judges: &mut Vec<Py<PyAny>>) -> PyResult<Interests> {
    let (always, equalities, lower, upper, tried): Rows = found.extract()?;
    let mut made = Interests::default();
    made.always = always;
    for (path, rows) in equalities {
        let (slot, mut table) = (made.slot(&path), Lookup::<Vec<Candidate>>::default());
        for (value, number, rest) in rows {
            let candidate = candidate(number, &rest, &mut made, judges)?;
            table.of(wanted(&value)?).push(candidate);
        }
        made.equalities.push(Equalities { slot, table });
    }
    for (is_lower, listed) in [(true, lower), (false, upper)] {
        for (path, rows) in listed {
            let slot = made.slot(&path);
            let (mut bounds, mut candidates) = (Vec::new(), Vec::new());
            for (value, number, rest) in rows {
                let Wanted::Number(bound) = wanted(&value)? else {
                    return Err(PyValueError::new_err("a bound is a number"));
                };
                bounds.push(bound);
                candidates.push(candidate(number, &rest, &mut made, judges)?);
            }
            made.bounds.push(Bounds { slot, is_lower, bounds, candidates });
        }
    }
    for (number, rest) in tried {
        let one = candidate(number, &rest, &mut made, judges)?;
        made.tried.push(one);
    }
    Ok(made)
}

fn candidate(
    number: u32,
    rest: &Bound<'_, PyAny>,
    interests: &mut Interests,
    judges: &mut Vec<Py<PyAny>>,
) -> PyResult<Candidate> {
    let rest = if rest.is_none() { None } else { Some(condition(rest, interests, judges)?) };
    Ok(Candidate { number, rest })
}

fn condition(found: &Bound<'_, PyAny>, interests: &mut Interests, judges: &mut Vec<Py<PyAny>>) -> PyResult<Condition> {
    if found.is_callable() {
        judges.push(found.clone().unbind());
        return Ok(Condition::Python(judges.len() - 1));
    }
    let kind: String = found.get_item(0)?.extract()?;
    if kind == "not" {
        return Ok(Condition::Not(Box::new(condition(&found.get_item(1)?, interests, judges)?)));
    }
    if kind == "all" || kind == "any" {
        let mut parts = Vec::new();
        for one in found.get_item(1)?.try_iter()? {
            parts.push(condition(&one?, interests, judges)?);
        }
        return Ok(if kind == "all" { Condition::All(parts) } else { Condition::Any(parts) });
    }
    let path: Vec<String> = found.get_item(1)?.extract()?;
    let slot = interests.slot(&path);
    let argument = found.get_item(2)?;
    let test = match kind.as_str() {
        "eq" => Test::Equal(wanted(&argument)?),
        "in" => {
            let mut members = Lookup::default();
            for one in argument.try_iter()? {
                members.of(wanted(&one?)?);
            }
            Test::In(members)
        }
        "gt" => Test::More { than: wanted(&argument)?, or_equal: false },
        "gte" => Test::More { than: wanted(&argument)?, or_equal: true },
        "lt" => Test::Less { than: wanted(&argument)?, or_equal: false },
        "lte" => Test::Less { than: wanted(&argument)?, or_equal: true },
        "contains" => Test::Contains(wanted(&argument)?),
        "starts_with" => Test::StartsWith(argument.extract()?),
        "ends_with" => Test::EndsWith(argument.extract()?),
        "exists" => Test::Exists(argument.extract()?),
        "before" => Test::Before(argument.extract()?),
        "after" => Test::After(argument.extract()?),
        _ => return Err(PyValueError::new_err(format!("no test is called {kind}"))),
    };
    Ok(Condition::Test { slot, test })
}

fn wanted(value: &Bound<'_, PyAny>) -> PyResult<Wanted> {
    if let Ok(truth) = value.cast::<PyBool>() {
        return Ok(Wanted::Bool(truth.is_true()));
    }
    if value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
        let number: f64 = value.extract()?;
        if number.abs() <= EXACT_MAX as f64 {
            return Ok(Wanted::Number(number));
        }
        return Err(PyValueError::new_err("a number beyond 2**53 is Python's to compare"));
    }
    Ok(Wanted::Text(value.extract()?))
}

/// The inputs of one shard, packed as `msgspec` packs a list of them: see `Input` in `state/records.py`.
struct Packed {
    bytes: Vec<u8>,
    count: u32,
}

impl Packed {
    fn new() -> Self {
        Packed { bytes: vec![pack::ARRAY_32, 0, 0, 0, 0], count: 0 }
    }

    fn finished(&mut self) -> &[u8] {
        self.bytes[1..5].copy_from_slice(&self.count.to_be_bytes());
        &self.bytes
    }
}

/// Reads the batches of one source partition.
///
/// Args:
///     table: the interests.
///     prefix: what a record's offset is put behind where it has no message id.
///     source: the number of the partition in the job.
///     shards: how many shards there are.
///     head_ms: the stream time of records without any, before the first that has one.
#[pyclass(module = "dataflow.read._scanner")]
pub struct Scanner {
    index: Arc<Index>,
    prefix: String,
    source: u32,
    shards: u32,
    head_ms: i64,
    hits: Vec<u32>,
}

#[pymethods]
impl Scanner {
    #[new]
    fn new(table: &Table, prefix: String, source: u32, shards: u32, head_ms: i64) -> Self {
        Scanner { index: Arc::clone(&table.0), prefix, source, shards, head_ms, hits: Vec::new() }
    }

    /// Return what is relevant of a batch.
    ///
    /// Args:
    ///     values: the records.
    ///     arrived_ms: their arrival times, None where they say themselves when they came.
    ///     offsets: their offsets, asked only where that matters.
    ///     stream_ms: the stream time before them.
    ///     slowly: handles the record at a position at a stream time, whatever it is; returns the stream time after it,
    ///         and the packed input with its shard, or nothing with any.
    ///
    /// Returns:
    ///     The packed inputs of each shard that has some; the stream time after the batch; how many inputs were not
    ///     made by `slowly`.
    fn take<'py>(
        &mut self,
        py: Python<'py>,
        values: &Bound<'py, PyList>,
        arrived_ms: Option<&Bound<'py, PyList>>,
        offsets: &Bound<'py, PyAny>,
        stream_ms: i64,
        slowly: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyDict>, i64, usize)> {
        let mut stream_ms = stream_ms;
        let mut relevant = 0;
        let mut shards: Vec<Option<Packed>> = (0..self.shards).map(|_| None).collect();
        for (position, value) in values.iter().enumerate() {
            let raw = value.cast::<PyBytes>()?.as_bytes();
            let arrived = match arrived_ms {
                Some(all) => all.get_item(position)?.extract().map(Some).map_err(|_| Stop::Odd),
                None => Ok(None),
            };
            let done = arrived.and_then(|at| self.one(py, raw, at, position, offsets, stream_ms, &mut shards));
            match done {
                Ok((now, is_relevant)) => {
                    stream_ms = now;
                    relevant += usize::from(is_relevant);
                }
                Err(Stop::Odd) => {
                    let (now, packed, shard): (i64, Bound<'_, PyBytes>, usize) =
                        slowly.call1((position, stream_ms))?.extract()?;
                    stream_ms = now;
                    if !packed.as_bytes().is_empty() {
                        let to = shards[shard].get_or_insert_with(Packed::new);
                        to.bytes.extend_from_slice(packed.as_bytes());
                        to.count += 1;
                    }
                }
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        let found = PyDict::new(py);
        for (shard, packed) in shards.iter_mut().enumerate() {
            if let Some(packed) = packed {
                found.set_item(shard, PyBytes::new(py, packed.finished()))?;
            }
        }
        Ok((found, stream_ms, relevant))
    }
}

impl Scanner {
    /// Return the stream time after a record, and whether anybody is interested; then it is packed for its shard.
    #[allow(clippy::too_many_arguments)]
    fn one<'py>(
        &mut self,
        py: Python<'py>,
        raw: &[u8],
        arrived_ms: Option<i64>,
        position: usize,
        offsets: &Bound<'py, PyAny>,
        stream_ms: i64,
        shards: &mut [Option<Packed>],
    ) -> Result<(i64, bool), Stop> {
        let event = event::read(raw)?;
        let came_ms = match arrived_ms {
            Some(at) if at > TIME_MS_MAX => return Err(Stop::Odd),
            Some(at) => at,
            // It says itself when it came; without a word, with the one before it.
            None => event.received_ms.or(event.at_ms).unwrap_or(if stream_ms <= 0 { self.head_ms } else { stream_ms }),
        };
        let now = stream_ms.max(came_ms);
        let index = &self.index;
        let Some(interests) = index.names.get(event.name) else {
            return Ok((now, false));
        };
        self.hits.clear();
        let properties = event.properties.unwrap_or("{}");
        let mut parsed: Option<Bound<'py, PyAny>> = None;
        let python = |number: usize| -> Result<bool, Stop> {
            let properties = match &parsed {
                Some(properties) => properties,
                None => parsed.insert(index.loads.bind(py).call1((PyBytes::new(py, properties.as_bytes()),))?),
            };
            Ok(index.judges[number].bind(py).call1((properties,))?.is_truthy()?)
        };
        interests.matched(event.properties, &mut self.hits, python)?;
        if self.hits.is_empty() {
            return Ok((now, false));
        }
        let offset: i64 = offsets.get_item(position)?.extract()?;
        let shard = crc32fast::hash(event.user_id.as_bytes()) % self.shards;
        let to = shards[shard as usize].get_or_insert_with(Packed::new);
        self.pack(&mut to.bytes, &event, now, properties, offset);
        to.count += 1;
        Ok((now, true))
    }

    /// Write the fields of an input, in their order.
    fn pack(&self, to: &mut Vec<u8>, event: &Event<'_>, now: i64, properties: &str, offset: i64) {
        pack::array(to, 11);
        pack::text(to, event.user_id);
        pack::integer(to, now);
        pack::text(to, event.name);
        match event.message_id {
            Some(id) => pack::text(to, id),
            None => pack::text(to, &format!("{}{offset}", self.prefix)),
        }
        pack::truth(to, event.message_id.is_some());
        pack::integer(to, event.at_ms.unwrap_or(now));
        pack::binary(to, properties.as_bytes());
        pack::nothing(to);
        pack::array(to, self.hits.len());
        for number in &self.hits {
            pack::integer(to, i64::from(*number));
        }
        pack::integer(to, i64::from(self.source));
        pack::integer(to, offset);
    }
}
