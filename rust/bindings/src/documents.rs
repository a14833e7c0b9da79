//! JSON and YAML without importing a parser, and with bounds: documents come from registries and from strangers.

use crate::errors::to_python;
use groot_core::record;
use groot_image::document::{self, Value};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use saphyr_parser::{Event, Parser, ScalarStyle};
use std::fmt::Write;
use std::path::PathBuf;

/// Levels of nesting in YAML, and in what is written; reading JSON has a bound of 128.
const MAX_DEPTH: usize = 64;

/// Parse one JSON document.
#[pyfunction]
pub fn parse_json<'py>(py: Python<'py>, document: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    to_object(py, &document::parse_value(document).map_err(PyValueError::new_err)?)
}

/// A JSON value as plain objects.
pub fn to_object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(flag) => flag.into_bound_py_any(py)?,
        Value::String(text) => text.into_bound_py_any(py)?,
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into_bound_py_any(py)?,
            (None, Some(number)) => number.into_bound_py_any(py)?,
            (None, None) => number.as_f64().into_bound_py_any(py)?,
        },
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_object(py, item)?)?;
            }
            list.into_any()
        }
        Value::Object(items) => {
            let dict = PyDict::new(py);
            for (key, item) in items {
                dict.set_item(key, to_object(py, item)?)?;
            }
            dict.into_any()
        }
    })
}

/// Format plain objects as compact JSON, escaped the way Go does it.
#[pyfunction]
pub fn format_json(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut text = String::new();
    format_value(value, &mut text, 0)?;
    Ok(text)
}

fn format_value(value: &Bound<'_, PyAny>, out: &mut String, depth: usize) -> PyResult<()> {
    if depth > MAX_DEPTH {
        return Err(PyValueError::new_err("nested too deeply"));
    }
    if value.is_none() {
        out.push_str("null");
    } else if let Ok(flag) = value.cast::<PyBool>() {
        out.push_str(if flag.is_true() { "true" } else { "false" });
    } else if value.is_instance_of::<PyInt>() {
        out.push_str(value.str()?.to_str()?);
    } else if let Ok(number) = value.cast::<PyFloat>() {
        let number = document::Number::from_f64(number.extract()?).ok_or_else(|| PyValueError::new_err("not a finite number"))?;
        out.push_str(&number.to_string());
    } else if let Ok(text) = value.cast::<PyString>() {
        format_string(text, out)?;
    } else if let Ok(dict) = value.cast::<PyDict>() {
        out.push('{');
        for (i, (key, item)) in dict.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            format_string(key.cast::<PyString>()?, out)?;
            out.push(':');
            format_value(&item, out, depth + 1)?;
        }
        out.push('}');
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        out.push('[');
        for (i, item) in value.try_iter()?.enumerate() {
            if i > 0 {
                out.push(',');
            }
            format_value(&item?, out, depth + 1)?;
        }
        out.push(']');
    } else {
        return Err(PyTypeError::new_err(format!("cannot write {} as JSON", value.get_type().name()?)));
    }
    Ok(())
}

/// Bytes that are not UTF-8 (names of files) become U+FFFD, as in Go.
fn format_string(text: &Bound<'_, PyString>, out: &mut String) -> PyResult<()> {
    let quoted = if let Ok(text) = text.to_str() {
        Value::from(text)
    } else {
        let encode = |errors| text.call_method1("encode", ("utf-8", errors));
        let bytes = encode("surrogateescape").or_else(|_| encode("replace"))?;
        Value::from(String::from_utf8_lossy(bytes.cast::<PyBytes>()?.as_bytes()))
    };
    let quoted = quoted.to_string();
    for c in quoted.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    Ok(())
}

/// Parse the YAML that configuration files are written in: mappings, sequences, scalars. Plain scalars become what
/// YAML 1.2's core schema makes of them. Aliases are refused (a few lines of them fill any memory), duplicate keys too.
#[pyfunction]
pub fn parse_yaml<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    let mut parser = Parser::new_from_str(text);
    let mut document = None;
    while let Some(event) = next_event(&mut parser)? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Nothing => {}
            Event::DocumentStart(_) if document.is_some() => return Err(PyValueError::new_err("more than one document")),
            Event::DocumentStart(_) => {
                let event = next_event(&mut parser)?.ok_or_else(|| PyValueError::new_err("unexpected end"))?;
                document = Some(yaml_node(py, &mut parser, event, 0)?);
            }
            _ => return Err(PyValueError::new_err("unexpected content")),
        }
    }
    Ok(document.unwrap_or_else(|| py.None().into_bound(py)))
}

type Yaml<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

fn next_event<'a>(parser: &mut Yaml<'a>) -> PyResult<Option<Event<'a>>> {
    parser.next_event().transpose().map(|next| next.map(|(event, _)| event)).map_err(|e| PyValueError::new_err(e.to_string()))
}

fn yaml_node<'py>(py: Python<'py>, parser: &mut Yaml<'_>, event: Event<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    if depth > MAX_DEPTH {
        return Err(PyValueError::new_err("nested too deeply"));
    }
    let next = |parser: &mut Yaml<'_>| -> PyResult<Option<Bound<'py, PyAny>>> {
        let event = next_event(parser)?.ok_or_else(|| PyValueError::new_err("unexpected end"))?;
        if matches!(event, Event::SequenceEnd | Event::MappingEnd) {
            return Ok(None);
        }
        yaml_node(py, parser, event, depth + 1).map(Some)
    };
    match event {
        // What a tag means is the reader's choice; ours would be a guess.
        Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
            Err(PyValueError::new_err("tags are not supported"))
        }
        Event::Scalar(text, ScalarStyle::Plain, ..) => plain_scalar(py, &text),
        Event::Scalar(text, ..) => text.into_bound_py_any(py),
        Event::SequenceStart(..) => {
            let list = PyList::empty(py);
            while let Some(item) = next(parser)? {
                list.append(item)?;
            }
            Ok(list.into_any())
        }
        Event::MappingStart(..) => {
            let dict = PyDict::new(py);
            while let Some(key) = next(parser)? {
                let key = key.str()?;
                if dict.contains(&key)? {
                    return Err(PyValueError::new_err(format!("key `{key}` is given twice")));
                }
                let value = next(parser)?.ok_or_else(|| PyValueError::new_err("unexpected end"))?;
                dict.set_item(key, value)?;
            }
            Ok(dict.into_any())
        }
        Event::Alias(_) => Err(PyValueError::new_err("aliases are not supported")),
        _ => Err(PyValueError::new_err("unexpected content")),
    }
}

fn plain_scalar<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(py.None().into_bound(py)),
        "true" | "True" | "TRUE" => return true.into_bound_py_any(py),
        "false" | "False" | "FALSE" => return false.into_bound_py_any(py),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.into_bound_py_any(py);
    }
    text.into_bound_py_any(py)
}

/// Write a small file, whole or not at all.
#[pyfunction]
#[pyo3(signature = (path, temporary, data, *, mode, owner=None))]
pub fn write_record(py: Python<'_>, path: PathBuf, temporary: PathBuf, data: &[u8], mode: u32, owner: Option<(u32, u32)>) -> PyResult<()> {
    py.detach(|| record::write(&path, &temporary, data, mode, owner)).map_err(|e| to_python(py, e))
}

/// Rename, failing where something is at `to`.
#[pyfunction]
pub fn rename_new(py: Python<'_>, from: PathBuf, to: PathBuf) -> PyResult<()> {
    py.detach(|| record::rename_new(&from, &to)).map_err(|e| to_python(py, e))
}

/// SHA-256 of `data` in hex.
#[pyfunction]
pub fn sha256(py: Python<'_>, data: &[u8]) -> String {
    py.detach(|| groot_core::blob::sha256(data))
}
