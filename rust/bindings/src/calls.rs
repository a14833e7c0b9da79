//! argv, configuration and settings; the commands that need no Python.

use crate::errors::failure_to_python;
use crate::telemetry::{Logger, Metrics};
use groot_cli::advice::check_setting;
use groot_cli::era::Era;
use groot_cli::options::KEYS;
use groot_cli::output::{self, Output};
use groot_cli::{Environment, Failure, Settings, Value, Values, configuration, run};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What is said instead of running a command.
#[pyclass(frozen)]
pub struct Answer(groot_cli::Answer);

#[pymethods]
impl Answer {
    #[getter]
    fn out<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.out.as_bytes())
    }

    #[getter]
    fn err<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.err.as_bytes())
    }

    #[getter]
    fn code(&self) -> u8 {
        self.0.code
    }
}

/// What is so in the era whose callers are served.
#[pyclass(frozen)]
pub struct Rules(pub &'static groot_cli::era::Rules);

#[pymethods]
impl Rules {
    /// Of an era's word.
    #[new]
    fn new(py: Python<'_>, word: OsString) -> PyResult<Self> {
        Era::of(&word).map(|era| Self(era.rules())).map_err(|failure| failure_to_python(py, &failure))
    }

    #[getter]
    fn word(&self) -> &'static str {
        self.0.word
    }

    #[getter]
    fn tells_commands(&self) -> bool {
        self.0.tells_commands
    }

    #[getter]
    fn has_volumes(&self) -> bool {
        self.0.has_volumes
    }

    #[getter]
    fn counts_limits(&self) -> bool {
        self.0.counts_limits
    }

    #[getter]
    fn cleans_apart(&self) -> bool {
        self.0.cleans_apart
    }

    #[getter]
    fn shows_limits(&self) -> bool {
        self.0.shows_limits
    }

    #[getter]
    fn gauges_layers(&self) -> bool {
        self.0.gauges_layers
    }

    #[getter]
    fn measures_newly(&self) -> bool {
        self.0.measures_newly
    }

    #[getter]
    fn hints(&self) -> bool {
        self.0.hints
    }

    #[getter]
    fn takes_directories(&self) -> bool {
        self.0.takes_directories
    }

    #[getter]
    fn tells_sizes(&self) -> bool {
        self.0.tells_sizes
    }

    #[getter]
    fn stops_at_limit(&self) -> bool {
        self.0.stops_at_limit
    }

    #[getter]
    fn quotes_refusals(&self) -> bool {
        self.0.quotes_refusals
    }

    #[getter]
    fn keeps_empty_store(&self) -> bool {
        self.0.keeps_empty_store
    }

    #[getter]
    fn not_deleted(&self) -> (&'static str, &'static str) {
        self.0.not_deleted.into()
    }

    #[getter]
    fn not_measured(&self) -> Option<(&'static str, &'static str)> {
        self.0.not_measured.map(Into::into)
    }

    #[getter]
    fn outside(&self) -> &'static str {
        self.0.outside
    }
}

/// One call of a command.
#[pyclass(frozen)]
pub struct Call(groot_cli::Call);

#[pymethods]
impl Call {
    #[getter]
    fn command(&self) -> &'static str {
        self.0.command.name
    }

    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, self.0.values.iter().map(|(name, value)| (name.as_str(), value)))
    }

    #[getter]
    fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, self.0.given.iter())
    }

    #[getter]
    fn rules(&self) -> Rules {
        Rules(self.0.settings.rules())
    }

    #[getter]
    fn positional(&self) -> Vec<OsString> {
        self.0.positional.clone()
    }

    #[getter]
    fn log(&self) -> Logger {
        Logger(self.0.log.clone())
    }

    #[getter]
    fn metrics(&self) -> Metrics {
        Metrics(self.0.metrics.clone())
    }

    /// What it prints after success.
    fn of_success(&self, text: OsString) -> OsString {
        output::of_success(&self.0, text)
    }

    /// What it prints after a failure, if that is for programs.
    #[pyo3(signature = (classes, message, hint, /))]
    fn of_failure(&self, classes: Vec<String>, message: OsString, hint: Option<String>) -> Option<OsString> {
        (self.0.settings.output == Output::Json).then(|| output::of_failure(&Failure { kind: output::kind_of(&classes), message, hint }))
    }

    /// Do it without Python.
    fn perform(&self, py: Python<'_>) -> PyResult<Option<OsString>> {
        py.detach(|| run::perform(&self.0)).transpose().map_err(|failure| failure_to_python(py, &failure))
    }
}

/// Read a call.
#[pyfunction]
pub fn read_call(py: Python<'_>, argv: Vec<OsString>, environment: &Bound<'_, PyDict>, program: PathBuf) -> PyResult<Py<PyAny>> {
    let variable = |name: &str| environment.get_item(name).ok().flatten()?.extract().ok();
    match groot_cli::Call::read(argv, &Environment::of(program, variable)) {
        Ok(call) => {
            call.undertake();
            Call(call).into_py_any(py)
        }
        Err(answer) => Answer(answer).into_py_any(py),
    }
}

/// The values of a configuration file.
#[pyfunction]
pub fn read_configuration(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let values = py.detach(|| configuration::read(&path)).map_err(|failure| failure_to_python(py, &failure))?;
    to_dict(py, values.iter().map(|(name, value)| (name.as_str(), value)))
}

/// Keys of a configuration file that nothing reads.
#[pyfunction]
pub fn unknown_keys(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    py.detach(|| configuration::unknown_keys(&path)).map_err(|failure| failure_to_python(py, &failure))
}

/// Begin the clean that follows a create, by a program and its first arguments.
#[pyfunction]
pub fn start_clean(py: Python<'_>, values: &Bound<'_, PyDict>, log: &Logger, program: Vec<OsString>) -> PyResult<()> {
    let settings = Settings::of(&from_dict(values)?).map_err(|failure| failure_to_python(py, &failure))?;
    py.detach(|| groot_cli::hot::start_clean(&settings, &log.0, &program));
    Ok(())
}

/// The keys of the configuration file, by setting, the newest first.
#[pyfunction]
pub fn configuration_keys(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let keys = PyDict::new(py);
    for key in KEYS {
        keys.set_item(key.setting, key.spellings)?;
    }
    Ok(keys)
}

/// All settings of a run, from the values of options and file.
#[pyfunction]
pub fn check_settings<'py>(py: Python<'py>, values: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    let values = from_dict(values)?;
    let settings = values.keys().try_for_each(|name| check_setting(name)).and_then(|()| Settings::of(&values));
    let settings = settings.map_err(|failure| failure_to_python(py, &failure))?;
    let all = PyDict::new(py);
    for (name, path) in [
        ("config", &settings.config),
        ("site_file", &settings.site_file),
        ("clean_log_file", &settings.clean_log_file),
        ("socket", &settings.socket),
        ("store", &settings.store),
        ("drax_bin", &settings.drax_bin),
        ("btrfs_progs_path", &settings.btrfs_progs_path),
        ("newuidmap_bin", &settings.newuidmap_bin),
        ("newgidmap_bin", &settings.newgidmap_bin),
        ("metrics_file", &settings.metrics_file),
        ("log_file", &settings.log_file),
        ("auth_file", &settings.auth_file),
        ("remote_layer_certificates", &settings.remote_layer_certificates),
        ("registry_hosts", &settings.registry_hosts),
    ] {
        all.set_item(name, path.as_os_str())?;
    }
    for (name, text) in [
        ("driver", &settings.driver),
        ("metron_endpoint", &settings.metron_endpoint),
        ("log_level", &settings.log_level),
        ("platform", &settings.platform),
        ("username", &settings.username),
        ("password", &settings.password),
    ] {
        all.set_item(name, text)?;
    }
    for (name, truth) in [
        ("with_clean", settings.with_clean),
        ("mount", settings.mount),
        ("json", settings.json),
        ("exclude_image", settings.exclude_image),
        ("skip_layer_validation", settings.skip_layer_validation),
        ("idmapped_mount", settings.idmapped_mount),
        ("direct_io", settings.direct_io),
    ] {
        all.set_item(name, truth)?;
    }
    for (name, texts) in [
        ("trusted_hosts", &settings.trusted_hosts),
        ("insecure_registries", &settings.insecure_registries),
        ("ignore_images", &settings.ignore_images),
        ("uid_mappings", &settings.uid_mappings),
        ("gid_mappings", &settings.gid_mappings),
    ] {
        all.set_item(name, texts)?;
    }
    all.set_item("rules", Py::new(py, Rules(settings.rules()))?)?;
    all.set_item("log_time_format", settings.log_time_format.word())?;
    all.set_item("correlation_id", settings.correlation_id)?;
    all.set_item("pull_policy", settings.pull_policy.word())?;
    all.set_item("progress", &settings.progress)?;
    all.set_item("image_verification", settings.image_verification.word())?;
    all.set_item("share_content", settings.share_content)?;
    all.set_item("join_small_layers", settings.join_small_layers)?;
    all.set_item("verification_lifetime", settings.verification_lifetime)?;
    all.set_item("response_timeout", settings.response_timeout)?;
    all.set_item("disk_limit", settings.disk_limit)?;
    all.set_item("threshold", settings.threshold)?;
    all.set_item("clean_free", settings.clean_free)?;
    all.set_item("clean_free_percent", settings.clean_free_percent)?;
    all.set_item("clean_keep", settings.clean_keep)?;
    all.set_item("store_size", settings.store_size)?;
    all.set_item("registry_mirrors", lists(py, &settings.registry_mirrors)?)?;
    Ok(all)
}

fn to_dict<'py, 'name, 'value>(py: Python<'py>, values: impl Iterator<Item = (&'name str, &'value Value)>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in values {
        match value {
            Value::Text(text) => dict.set_item(name, text)?,
            Value::Integer(number) => dict.set_item(name, number)?,
            Value::Switch(truth) => dict.set_item(name, truth)?,
            Value::List(texts) => dict.set_item(name, texts)?,
            Value::Lists(all) => dict.set_item(name, lists(py, all)?)?,
        }
    }
    Ok(dict)
}

fn lists<'py>(py: Python<'py>, all: &[(String, Vec<String>)]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, texts) in all {
        dict.set_item(name, texts)?;
    }
    Ok(dict)
}

fn from_dict(dict: &Bound<'_, PyDict>) -> PyResult<Values> {
    let mut values = Values::new();
    for (name, value) in dict {
        let value = if let Ok(truth) = value.extract::<bool>() {
            Value::Switch(truth)
        } else if let Ok(text) = value.extract::<OsString>() {
            Value::Text(text)
        } else if let Ok(lists) = value.cast::<PyDict>() {
            let lists = lists.iter().map(|(name, texts)| Ok((name.extract()?, texts.extract()?)));
            Value::Lists(lists.collect::<PyResult<_>>()?)
        } else if let Ok(texts) = value.extract() {
            Value::List(texts)
        } else {
            Value::Integer(value.extract()?)
        };
        values.insert(name.extract()?, value);
    }
    Ok(values)
}

/// Print a result; gives the exit code.
#[pyfunction]
pub fn say(py: Python<'_>, text: OsString, code: u8) -> u8 {
    py.detach(|| groot_cli::stdout::say(&text, code))
}
