//! What the job does to every event, and the gateway to long lists of them, compiled: reading and matching.
//!
//! It knows nothing that Python does not know better: whatever is not a plain, sound event is left to
//! `connectors/formats/native.py` and `operators/conditions/index.py`, which define what is read and what is matched. Tests hold the two
//! together.

pub mod event;
pub mod index;
pub mod json;
pub mod several;
pub mod time;

#[cfg(feature = "python")]
mod pack;
#[cfg(feature = "python")]
mod scanner;
#[cfg(feature = "python")]
mod sent;

#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _scanner {
    /// What this and `dataflow/read/scanner.py` are agreed on: to be raised in both when that changes.
    #[pymodule_export]
    const CONTRACT: u32 = 2;
    #[pymodule_export]
    use crate::scanner::{Scanner, Table};
    #[pymodule_export]
    use crate::sent::{items, lines};
}
