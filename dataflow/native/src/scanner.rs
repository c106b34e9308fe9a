//! Reads the batches of a source partition: `Intake` in `dataflow/intake.py` says what has to come of them.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use rustc_hash::FxHashMap;

use crate::event::{self, Event};
use crate::index::{Ask, Bounds, Candidate, Equalities, Interests, Test, Wanted, EXACT_MAX};
use crate::json::Odd;
use crate::time::TIME_MS_MAX;

const SETS_MAX: usize = 20_000; // Distinct sets of interests that events satisfy; a few hundred in practice.

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

struct Name {
    text: Py<PyString>,
    interests: Interests,
}

struct Index {
    names: FxHashMap<String, Name>,
    judges: Vec<Py<PyAny>>,
    loads: Py<PyAny>,
}

/// The interests of all flows in events, by name: what `MatchIndex.table` returns, made for looking things up.
///
/// Args:
///     table: see `operators/match.py`.
///     loads: reads JSON, for conditions that only Python can judge.
#[pyclass(frozen, module = "dataflow._native")]
pub struct Table(Arc<Index>);

#[pymethods]
impl Table {
    #[new]
    fn new(table: &Bound<'_, PyDict>, loads: Py<PyAny>) -> PyResult<Self> {
        let mut judges = Vec::new();
        let mut names = FxHashMap::default();
        for (name, found) in table {
            let text: String = name.extract()?;
            let interests = interests(&found, &mut judges)?;
            names.insert(text, Name { text: name.cast_into::<PyString>()?.unbind(), interests });
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
        let mut table = Equalities::of(made.slot(&path));
        for (value, number, rest) in rows {
            table.add(wanted(&value)?, candidate(number, &rest, &mut made, judges)?);
        }
        made.equalities.push(table);
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
    let rest = if rest.is_none() { None } else { Some(ask(rest, interests, judges)?) };
    Ok(Candidate { number, rest })
}

fn ask(found: &Bound<'_, PyAny>, interests: &mut Interests, judges: &mut Vec<Py<PyAny>>) -> PyResult<Ask> {
    if found.is_callable() {
        judges.push(found.clone().unbind());
        return Ok(Ask::Python(judges.len() - 1));
    }
    let kind: String = found.get_item(0)?.extract()?;
    if kind == "not" {
        return Ok(Ask::Not(Box::new(ask(&found.get_item(1)?, interests, judges)?)));
    }
    if kind == "all" || kind == "any" {
        let mut asks = Vec::new();
        for one in found.get_item(1)?.try_iter()? {
            asks.push(ask(&one?, interests, judges)?);
        }
        return Ok(if kind == "all" { Ask::All(asks) } else { Ask::Any(asks) });
    }
    let path: Vec<String> = found.get_item(1)?.extract()?;
    let slot = interests.slot(&path);
    let argument = found.get_item(2)?;
    let test = match kind.as_str() {
        "eq" => Test::Equal(wanted(&argument)?),
        "in" => Test::In(argument.try_iter()?.map(|one| wanted(&one?)).collect::<PyResult<_>>()?),
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
    Ok(Ask::Test { slot, test })
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

/// Reads the batches of one source partition.
///
/// Args:
///     table: the interests.
///     make: makes an input of its fields; see `state/records.py`.
///     prefix: what a record's offset is put behind where it has no message id.
///     source: the number of the partition in the job.
///     shards: how many shards there are.
///     head_ms: the stream time of records without any, before the first that has one.
#[pyclass(module = "dataflow._native")]
pub struct Scanner {
    index: Arc<Index>,
    make: Py<PyType>,
    prefix: String,
    source: u32,
    shards: u32,
    head_ms: i64,
    sets: FxHashMap<Vec<u32>, Py<PyTuple>>,
    hits: Vec<u32>,
}

#[pymethods]
impl Scanner {
    #[new]
    fn new(table: &Table, make: Py<PyType>, prefix: String, source: u32, shards: u32, head_ms: i64) -> Self {
        let index = Arc::clone(&table.0);
        Scanner { index, make, prefix, source, shards, head_ms, sets: FxHashMap::default(), hits: Vec::new() }
    }

    /// Add what is relevant of a batch to the lists of its shards.
    ///
    /// Args:
    ///     values: the records.
    ///     arrived_ms: their arrival times, None where they say themselves when they came.
    ///     offsets: their offsets, asked only where that matters.
    ///     stream_ms: the stream time before them.
    ///     slowly: handles the record at a position, whatever it is, and returns the stream time after it.
    ///     by_shard: the lists.
    ///
    /// Returns:
    ///     The stream time after them, and how many were added here.
    #[allow(clippy::too_many_arguments)]
    fn take(
        &mut self,
        py: Python<'_>,
        values: &Bound<'_, PyList>,
        arrived_ms: Option<&Bound<'_, PyList>>,
        offsets: &Bound<'_, PyAny>,
        stream_ms: i64,
        slowly: &Bound<'_, PyAny>,
        by_shard: &Bound<'_, PyDict>,
    ) -> PyResult<(i64, usize)> {
        let mut stream_ms = stream_ms;
        let mut relevant = 0;
        let mut lists: Vec<Option<Bound<'_, PyList>>> = vec![None; self.shards as usize];
        for (position, value) in values.iter().enumerate() {
            let raw = value.cast::<PyBytes>()?.as_bytes();
            let arrived: Option<i64> = match arrived_ms {
                Some(all) => Some(all.get_item(position)?.extract()?),
                None => None,
            };
            match self.one(py, raw, arrived, position, offsets, stream_ms) {
                Ok((now, made)) => {
                    stream_ms = now;
                    let Some((shard, made)) = made else {
                        continue;
                    };
                    relevant += 1;
                    let list = &mut lists[shard as usize];
                    if list.is_none() {
                        *list = Some(match by_shard.get_item(shard)? {
                            Some(known) => known.cast_into()?,
                            None => {
                                let new = PyList::empty(py);
                                by_shard.set_item(shard, &new)?;
                                new
                            }
                        });
                    }
                    if let Some(list) = list {
                        list.append(made)?;
                    }
                }
                Err(Stop::Odd) => stream_ms = slowly.call1((position, stream_ms))?.extract()?,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Ok((stream_ms, relevant))
    }
}

impl Scanner {
    /// Return the stream time after a record, and what was made of it with its shard, if anybody is interested.
    #[allow(clippy::type_complexity)]
    fn one<'py>(
        &mut self,
        py: Python<'py>,
        raw: &[u8],
        arrived_ms: Option<i64>,
        position: usize,
        offsets: &Bound<'py, PyAny>,
        stream_ms: i64,
    ) -> Result<(i64, Option<(u32, Bound<'py, PyAny>)>), Stop> {
        let event = event::read(raw)?;
        let came_ms = match arrived_ms {
            Some(at) if at > TIME_MS_MAX => return Err(Stop::Odd),
            Some(at) => at,
            // It says itself when it came; without a word, with the one before it.
            None => event.received_ms.or(event.at_ms).unwrap_or(if stream_ms <= 0 { self.head_ms } else { stream_ms }),
        };
        let now = stream_ms.max(came_ms);
        let index = Arc::clone(&self.index);
        let Some(name) = index.names.get(event.name) else {
            return Ok((now, None));
        };
        self.hits.clear();
        let mut parsed: Option<Bound<'py, PyAny>> = None;
        let python = |number: usize| -> Result<bool, Stop> {
            let properties = match &parsed {
                Some(properties) => properties,
                None => {
                    let text = event.properties.unwrap_or("{}");
                    parsed.insert(index.loads.bind(py).call1((PyBytes::new(py, text.as_bytes()),))?)
                }
            };
            Ok(index.judges[number].bind(py).call1((properties,))?.is_truthy()?)
        };
        name.interests.matched(event.properties, &mut self.hits, python)?;
        if self.hits.is_empty() {
            return Ok((now, None));
        }
        let shard = crc32fast::hash(event.user_id.as_bytes()) % self.shards;
        let made = self.made(py, &event, name, now, offsets.get_item(position)?)?;
        Ok((now, Some((shard, made))))
    }

    fn made<'py>(
        &mut self,
        py: Python<'py>,
        event: &Event<'_>,
        name: &Name,
        now: i64,
        offset: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let hits = match self.sets.get(self.hits.as_slice()) {
            Some(known) => known.bind(py).clone(),
            None => {
                if self.sets.len() >= SETS_MAX {
                    self.sets.clear();
                }
                let new = PyTuple::new(py, &self.hits)?;
                self.sets.insert(self.hits.clone(), new.clone().unbind());
                new
            }
        };
        let message_id = match event.message_id {
            Some(id) => PyString::new(py, id),
            None => PyString::new(py, &format!("{}{}", self.prefix, offset.extract::<i64>()?)),
        };
        self.make.bind(py).call1((
            event.user_id,
            now,
            name.text.bind(py),
            message_id,
            event.message_id.is_some(),
            event.at_ms.unwrap_or(now),
            PyBytes::new(py, event.properties.unwrap_or("{}").as_bytes()),
            py.None(),
            hits,
            self.source,
            offset,
        ))
    }
}
