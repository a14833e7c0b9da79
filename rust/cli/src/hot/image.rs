//! delete, stats, list.

use super::{Done, bytes, done, failure, missing_store, open, send_layers, session, timed, usage_error};
use crate::call::Call;
use crate::failure::{Failure, Kind, message};
use groot_document::{Value as Json, format_json, json};
use groot_store::layout::{Options, how_to_make, no_image};
use groot_store::{Error, Store};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Remove an image. What is not there is not worth an error: Garden asks every store for every container.
pub fn delete(call: &Call) -> Done {
    let [argument] = &call.positional[..] else { return Some(Err(usage_error("id was not specified").hint("delete takes one id"))) };
    let data = json!({"id": argument.to_string_lossy()});
    let deleted = session(&call.log, "groot-deleting", data, |log| {
        let attempt = || -> Result<Vec<u8>, Error> {
            let id = Store::id_of_argument(&call.settings.store, argument)?;
            let store = store_of(call, &id)?;
            timed(&call.metrics, "ImageDeletionTime", || store.delete_image(&id, super::signals::stopped()))?;
            send_layers(&store, call);
            Ok(id)
        };
        let id = attempt().map_err(failure)?;
        log.debug("deleted", json!({"id": String::from_utf8_lossy(&id)}));
        Ok(id)
    });
    Some(match done(deleted)? {
        Ok(id) => Ok(message(["Image ".as_ref(), OsStr::from_bytes(&id), " deleted".as_ref()])),
        Err(error) if error.kind == Kind::ImageNotFound => {
            let data = json!({"id": argument.to_string_lossy(), "storePath": call.settings.store.to_string_lossy()});
            call.log.debug("id-not-found-skipping", data);
            Ok(missing(call, argument, call.settings.rules().not_deleted))
        }
        Err(error) if error.message.to_string_lossy().ends_with("is outside store path") => {
            Ok(message([&error.message, call.settings.rules().outside.as_ref()]))
        }
        Err(error) => Err(error),
    })
}

/// What is said of an image that is not there.
fn missing(call: &Call, argument: &OsStr, around: [&str; 2]) -> OsString {
    let id = Store::id_of_argument(&call.settings.store, argument).unwrap_or_default();
    message([around[0].as_ref(), OsStr::from_bytes(&id), around[1].as_ref()])
}

/// Print what an image uses.
pub fn stats(call: &Call) -> Done {
    if call.given.switch("store") {
        return None;
    }
    let [argument] = &call.positional[..] else {
        return Some(Err(usage_error("invalid arguments - usage: stats [options] <id|image path>")));
    };
    let data = json!({"id": argument.to_string_lossy()});
    let rules = call.settings.rules();
    let done = done(session(&call.log, "groot-stats", data, |_| {
        let attempt = || -> Result<OsString, Error> {
            let id = Store::id_of_argument(&call.settings.store, argument)?;
            let store = store_of(call, &id)?;
            let used = timed(&call.metrics, "ImageStatsTime", || store.image_usage(&id))?;
            let mut usage = json!({"total_bytes_used": used.total, "exclusive_bytes_used": used.exclusive});
            if rules.shows_limits {
                let limit = store.committed_to(&id)?;
                usage["quota_size_bytes"] = limit.into();
                usage["committed_space_bytes"] = (store.image_size(&id)? + limit).into();
            }
            Ok(format_json(&json!({"disk_usage": usage})).into())
        };
        attempt().map_err(failure)
    }))?;
    Some(match (done, rules.not_measured) {
        (Err(error), Some(around)) if error.kind == Kind::ImageNotFound => Err(Failure::new(error.kind, missing(call, argument, around))),
        (done, _) => done,
    })
}

/// The store with an image; no store means no image: a caller that tidies up must not fail (contract, section 8.1).
fn store_of(call: &Call, id: &[u8]) -> Result<Store, Error> {
    if Store::is_there(&call.settings.store)? {
        return open(call);
    }
    Err(no_image(id, " Skipping delete."))
}

/// Print the images.
#[allow(clippy::unnecessary_wraps)] // as every hot command
pub fn list(call: &Call) -> Done {
    if let Some(text) = missing_store(call) {
        return Some(Err(Failure::new(Kind::StoreError, text).hint(how_to_make(&call.settings.store))));
    }
    let failed =
        |reason: String| Failure::new(Kind::StoreError, format!("Failed to retrieve list of images: failed to list store path: {reason}"));
    let store = match Store::open_any(&call.settings.store, Options::default()) {
        Ok(store) => store,
        Err(error) => {
            return match error.errno() {
                Some(errno) => Some(Err(failed(groot_store::error::text_of(errno)))),
                None => Some(Err(failure(error)?)),
            };
        }
    };
    let ids = match store.images() {
        Ok(ids) => ids,
        Err(error) => return Some(Err(failed(error.errno().map_or(error.text, groot_store::error::text_of)))),
    };
    // Not the setting: `create.json` in the configuration file is about create.
    if call.given.switch("json") {
        // One that cannot be read is for Python to say.
        let described = ids.iter().map(|id| described(&store, id)).collect::<Result<Vec<_>, _>>().ok()?;
        return Some(Ok(format_json(&Json::Array(described.into_iter().flatten().collect())).into()));
    }
    if ids.is_empty() {
        return Some(Ok("Store empty".into()));
    }
    let paths: Vec<_> = ids.iter().map(|id| bytes(store.image_path(id).as_os_str()).to_vec()).collect();
    Some(Ok(OsString::from_vec(paths.join(&b'\n'))))
}

/// One image of `list --json`; None if it was deleted meanwhile.
fn described(store: &Store, id: &[u8]) -> Result<Option<Json>, Error> {
    let path = store.image_path(id);
    let layers = store.read_dependencies(id).unwrap_or_default();
    let numbers = store.image_size(id).and_then(|size| Ok((size, store.image_limit(id)?)));
    // What was read while a delete took it apart is of no image.
    if matches!(store.has_image(id), Ok(false)) {
        return Ok(None);
    }
    let (size, limit) = numbers?;
    Ok(Some(json!({
        "id": String::from_utf8_lossy(id),
        "path": path.to_string_lossy(),
        "rootfs": path.join("rootfs").to_string_lossy(),
        "layers": layers,
        "image_size_bytes": size,
        "quota_size_bytes": limit,
    })))
}
