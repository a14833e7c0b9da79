//! One call, from what it does to its exit code.

use crate::call::{Answer, Call, tell};
use crate::failure::{Failure, Kind, of_panic};
use crate::output::{self, Output};
use crate::{completion, hot, manual, stdout};
use groot_document::{Value as Json, format_json, json};
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Do a call that needs no store, without log, metrics and output, which are the caller's; `None` for another one.
#[must_use]
pub fn perform(call: &Call) -> Option<Result<OsString, Failure>> {
    match call.command.name {
        "capacity" => Some(Ok(capacity(call).into())),
        "completion" => Some(completion(call).map(Into::into)),
        "man-page" => Some(Ok(manual::page().into())),
        _ => None,
    }
}

/// Do the call here and give its exit code; `None` if Python has to do it, and nothing is told yet.
#[must_use]
pub fn run(call: &Call) -> Option<u8> {
    if call.wants_traces {
        return None;
    }
    let done = || perform(call).or_else(|| hot::run(call));
    let result = catch_unwind(AssertUnwindSafe(done)).unwrap_or_else(|panic| Some(Err(of_panic(&*panic))))?;
    call.undertake();
    let (mut text, code, failure) = match result {
        Ok(text) => (output::of_success(call, text), 0, String::new()),
        Err(failure) => {
            let message = failure.message.to_string_lossy().into_owned();
            if call.settings.output == Output::Json {
                call.log.error("failed", &message, Json::Null);
                (output::of_failure(&failure), failure.code(), message)
            } else if call.settings.rules().hints {
                call.log.error("failed", &message, Json::Null);
                (failure.text(), failure.code(), message)
            } else {
                call.log.error("failed", &message, failure.hint.as_ref().map_or(Json::Null, |hint| json!({"hint": hint})));
                (failure.message.clone(), failure.code(), message)
            }
        }
    };
    tell(&call.settings, &call.log, "ending");
    call.metrics.ended(call.command.name, code, &failure);
    if !text.is_empty() {
        text.push("\n");
    }
    let code = stdout::say(&text, code);
    // The caller has its answer; a metrics file that is busy holds up nobody but us.
    call.metrics.close();
    Some(code)
}

/// Give an answer.
#[must_use]
pub fn answer(answer: &Answer) -> u8 {
    let code = stdout::say(&answer.out, answer.code);
    stdout::complain(&answer.err);
    code
}

/// The size that the store was configured with, as newer Gardens ask for it; if it is in a file, no more than that has.
fn capacity(call: &Call) -> String {
    let configured = call.settings.store_size;
    let there = groot_store::mounts::file_bytes(&call.settings.store).and_then(|bytes| i64::try_from(bytes).ok());
    format_json(&json!({"capacity": if configured > 0 { there.unwrap_or(configured) } else { configured }}))
}

fn completion(call: &Call) -> Result<String, Failure> {
    let shell = match &call.positional[..] {
        [shell] => shell.to_str().and_then(completion::file_for),
        _ => None,
    };
    let usage = || format!("invalid arguments - usage: completion {}", completion::SHELLS.join("|"));
    shell.ok_or_else(|| Failure::new(Kind::UsageError, usage()))
}
