//! clean, and the one after a create.

use super::{Done, Told, failure, missing_store, open, send_unused, send_usage, session, timed};
use crate::call::Call;
use crate::failure::{Failure, Kind};
use groot_document::Value as Json;
use groot_store::Error;
use groot_store::clean::{Outcome, Wishes};

/// Remove unused layers.
pub fn clean(call: &Call) -> Done {
    if let Some(text) = missing_store(call) {
        return Some(Ok(text));
    }
    Some(match sweep(call, false)? {
        Ok(Outcome::BelowThreshold) => Ok("threshold not reached: skipping clean".into()),
        Ok(_) => Ok("clean completed".into()),
        Err(error) => Err(error),
    })
}

/// Clean; None if that needs Python.
pub fn sweep(call: &Call, on_create: bool) -> Option<Result<Outcome, Failure>> {
    let mut for_python = false;
    let result = session(&call.log, "groot-cleaning", Json::Null, |log| {
        let attempt = || -> Result<Outcome, Error> {
            let store = open(call)?;
            let ignore_images = call.settings.ignore_images.iter().map(|image| image.to_string_lossy().into_owned()).collect();
            let wishes = Wishes { threshold: call.settings.threshold, ignore_images, on_create };
            let told = Told { log, metrics: &call.metrics };
            let outcome = timed(&call.metrics, "ImageCleanTime", || store.clean(&wishes, &told, super::signals::stopped()))?;
            if !on_create {
                if outcome != Outcome::BelowThreshold {
                    send_usage(&store, &call.metrics);
                }
                send_unused(&store, &call.metrics);
            }
            Ok(outcome)
        };
        attempt().map_err(|error| {
            failure(error).unwrap_or_else(|| {
                for_python = true;
                Failure::new(Kind::GrootError, "")
            })
        })
    });
    if for_python { None } else { Some(result) }
}
