//! clean, and the one after a create.

use super::{Done, Told, done, failure, missing_store, open, send_unused, send_usage, session, timed};
use crate::call::Call;
use crate::failure::Failure;
use groot_document::Value as Json;
use groot_store::clean::{Outcome, Wishes};
use groot_store::{Error, Store};

/// Remove unused layers.
pub fn clean(call: &Call) -> Done {
    if let Some(text) = missing_store(call) {
        return Some(Ok(text));
    }
    Some(match sweep(call, None)? {
        Ok(Outcome::BelowThreshold) => Ok("threshold not reached: skipping clean".into()),
        Ok(_) => Ok("clean completed".into()),
        Err(error) => Err(error),
    })
}

/// Clean, after a create in the store that it has open; None if that needs Python.
pub fn sweep(call: &Call, created_in: Option<&Store>) -> Option<Result<Outcome, Failure>> {
    let on_create = created_in.is_some();
    done(session(&call.log, "groot-cleaning", Json::Null, |log| {
        let attempt = || -> Result<Outcome, Error> {
            let opened;
            let store = if let Some(store) = created_in {
                store
            } else {
                opened = open(call)?;
                &opened
            };
            let ignore_images = call.settings.ignore_images.iter().map(|image| image.to_string_lossy().into_owned()).collect();
            let wishes = Wishes { threshold: call.settings.threshold, ignore_images, on_create };
            let told = Told { log, metrics: &call.metrics };
            let outcome = timed(&call.metrics, "ImageCleanTime", || store.clean(&wishes, &told, super::signals::stopped()))?;
            if !on_create {
                if outcome != Outcome::BelowThreshold {
                    send_usage(store, &call.metrics);
                }
                send_unused(store, &call.metrics);
            }
            Ok(outcome)
        };
        attempt().map_err(failure)
    }))
}
