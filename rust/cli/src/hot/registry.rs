//! What a `docker://` name means now, for this caller: the registry is asked here if that is plain.

use super::{Told, signals};
use crate::call::Call;
use crate::settings::{PullPolicy, Settings, Verification};
use groot_document::json;
use groot_registry::client::{Options, Outcome, Question, Resolved, wants_proxy};
use groot_registry::credentials::default_files;
use groot_registry::reference::Reference;
use groot_registry::trust::CERTS_DIRECTORIES;
use groot_store::Store;
use groot_store::records::Image;
use groot_telemetry::{Logger, NANOS};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The image that a name stands for, if the store remembers it by this name and nothing else has to be fetched. What a name means,
/// and whether this caller may have the image, is the registry's to say, unless the operator says that it need not be asked.
pub fn resolve(call: &Call, store: &Store, url: &str, name: &str, told: &Told<'_>) -> Option<Image> {
    let settings = &call.settings;
    let reference = Reference::parse(url).ok()?;
    let remembered = store.recall(name)?;
    let means_what_is_here = reference.digest.is_some() || settings.pull_policy == PullPolicy::Missing;
    if means_what_is_here && settings.image_verification == Verification::Never {
        return Some(remembered);
    }
    let question = Question { reference, options: options(settings)? };
    let lifetime = Duration::from_secs(settings.verification_lifetime);
    let shown = if settings.image_verification == Verification::Cached { Some(question.shown().ok()?) } else { None };
    if means_what_is_here && shown.as_ref().is_some_and(|shown| store.has_proof(shown, lifetime)) {
        return Some(remembered);
    }
    if wants_proxy(|name| std::env::var_os(name)) {
        return None;
    }

    let user = rustix::process::geteuid().as_raw();
    let mut turn = store.turn(&question.key(name, user), signals::stopped()).ok()?;
    if let Some(waited) = turn.waited() {
        #[allow(clippy::cast_precision_loss)]
        told.metrics.send("PullLockingTime", waited.as_nanos() as f64, NANOS);
    }
    if turn.answered {
        return store.recall(name); // as whoever asked has found it
    }
    turn.asking();
    let found = match question.ask(signals::stopped())? {
        Outcome::Resolved(found) => found,
        Outcome::NotPlain(_) => return None,
    };
    report(told.log, &found, &question.reference.registry);
    if !means_what_is_here && remembered.named.as_ref() != Some(&found.digest) {
        return None; // the name was moved
    }
    if let Some(shown) = shown
        && let Err(error) = store.keep_proof(&shown, lifetime)
    {
        told.log.error("proof-not-kept", error.text, json!({})); // the registry is asked again next time
    }
    turn.answer();
    Some(remembered)
}

/// How to ask; None if a setting is no text.
fn options(settings: &Settings) -> Option<Options> {
    let texts = |list: &[OsString]| list.iter().map(|text| text.to_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    Some(Options {
        insecure_registries: texts(&settings.insecure_registries)?,
        login: (settings.username.to_str()?.to_owned(), settings.password.to_str()?.to_owned()),
        auth_file: Some(settings.auth_file.clone()).filter(|path| !path.as_os_str().is_empty()),
        credential_files: default_files(|name| std::env::var_os(name)),
        certs_dirs: CERTS_DIRECTORIES.map(PathBuf::from).to_vec(),
        mirrors: settings.registry_mirrors.clone(),
        hosts_directory: settings.registry_hosts.clone(),
        trusted_hosts: texts(&settings.trusted_hosts)?,
        response_timeout: settings.response_timeout,
    })
}

fn report(log: &Logger, found: &Resolved, registry: &str) {
    for exchange in &found.exchanges {
        let status = exchange.status.map_or_else(|| json!("no reply"), |status| json!(status));
        let took = (exchange.took.as_secs_f64() * 10_000.0).round() / 10_000.0;
        log.debug("exchange", json!({"method": exchange.method, "host": exchange.host, "status": status, "seconds": took}));
    }
    for (mirror, reason) in &found.failed_mirrors {
        log.error("mirror-failed", *reason, json!({"mirror": mirror, "registry": registry}));
    }
}
