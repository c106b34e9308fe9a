//! What `several` finds, for Python.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::several::{self, Sent};

/// The records, a plain event as its user and itself; and the places of those that are still open.
type Found<'py> = (Bound<'py, PyList>, Vec<usize>);

/// Return the items of a list, None where all of it is Python's to read.
#[pyfunction]
pub fn items<'py>(py: Python<'py>, body: &[u8], most: usize) -> PyResult<Option<Found<'py>>> {
    several::items(body, most).ok().map(|sent| found(py, &sent)).transpose()
}

/// Return the lines of a text that are not blank.
#[pyfunction]
pub fn lines<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Found<'py>> {
    found(py, &several::lines(body))
}

fn found<'py>(py: Python<'py>, sent: &[Sent<'_>]) -> PyResult<Found<'py>> {
    let mut records = Vec::with_capacity(sent.len());
    let mut open = Vec::new();
    for (place, one) in sent.iter().enumerate() {
        records.push(match one {
            Sent::Plain(user_id, raw) => {
                (PyString::new(py, user_id), PyBytes::new(py, raw)).into_pyobject(py)?.into_any()
            }
            Sent::Open(raw) => {
                open.push(place);
                PyBytes::new(py, raw).into_any()
            }
        });
    }
    Ok((PyList::new(py, records)?, open))
}
