//! JSON and YAML as plain Python objects; records on disk.

use groot_document::{MAX_DEPTH, Map, Number, Refused, Value};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Parse one JSON document.
#[pyfunction]
pub fn parse_json<'py>(py: Python<'py>, document: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    to_object(py, &groot_document::parse_json(document).map_err(refused)?)
}

/// Format plain objects as compact JSON, escaped the way Go does it.
#[pyfunction]
pub fn format_json(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(groot_document::format_json(&from_object(value, 0)?))
}

/// Parse the YAML that configuration files are written in.
#[pyfunction]
pub fn parse_yaml<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    to_object(py, &groot_document::parse_yaml(text).map_err(refused)?)
}

fn refused(why: Refused) -> PyErr {
    PyValueError::new_err(why.to_string())
}

/// A document as plain objects.
pub fn to_object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(py.None().into_bound(py)),
        Value::Bool(truth) => truth.into_bound_py_any(py),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into_bound_py_any(py),
            (None, Some(number)) => number.into_bound_py_any(py),
            (None, None) => number.as_f64().into_bound_py_any(py),
        },
        Value::String(text) => text.into_bound_py_any(py),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_object(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Value::Object(items) => {
            let dict = PyDict::new(py);
            for (key, item) in items {
                dict.set_item(key, to_object(py, item)?)?;
            }
            Ok(dict.into_any())
        }
    }
}

/// Plain objects as a document; `depth` is that of `value`.
pub fn from_object(value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth > MAX_DEPTH {
        return Err(PyValueError::new_err("nested too deeply"));
    }
    if value.is_none() {
        Ok(Value::Null)
    } else if let Ok(truth) = value.cast::<PyBool>() {
        Ok(truth.is_true().into())
    } else if value.is_instance_of::<PyInt>() {
        let number = value.extract::<i64>().map(Number::from).or_else(|_| value.extract::<u64>().map(Number::from));
        number.map(Value::Number).map_err(|_| PyValueError::new_err("a number of more than 64 bits"))
    } else if let Ok(number) = value.cast::<PyFloat>() {
        Number::from_f64(number.extract()?).map(Value::Number).ok_or_else(|| PyValueError::new_err("not a finite number"))
    } else if let Ok(text) = value.cast::<PyString>() {
        Ok(text_of(text)?.into())
    } else if let Ok(dict) = value.cast::<PyDict>() {
        let items = dict.iter().map(|(key, item)| Ok((text_of(key.cast::<PyString>()?)?, from_object(&item, depth + 1)?)));
        Ok(Value::Object(items.collect::<PyResult<Map<_, _>>>()?))
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| from_object(&item?, depth + 1));
        Ok(Value::Array(items.collect::<PyResult<_>>()?))
    } else {
        Err(PyTypeError::new_err(format!("cannot write {} as JSON", value.get_type().name()?)))
    }
}

/// Bytes that are not UTF-8 (names of files) become U+FFFD, as in Go.
fn text_of(text: &Bound<'_, PyString>) -> PyResult<String> {
    if let Ok(text) = text.to_str() {
        return Ok(text.to_owned());
    }
    let encode = |errors| text.call_method1("encode", ("utf-8", errors));
    let bytes = encode("surrogateescape").or_else(|_| encode("replace"))?;
    Ok(String::from_utf8_lossy(bytes.cast::<PyBytes>()?.as_bytes()).into_owned())
}

/// SHA-256 of `data` in hex.
#[pyfunction]
pub fn sha256(py: Python<'_>, data: &[u8]) -> String {
    py.detach(|| groot_core::blob::sha256(data))
}
