//! create, of an image whose volumes are all there.

use super::{Done, Told, done, failure, open, registry, send_bytes, send_layers, send_time, send_usage, session, signals, usage_error};
use crate::call::Call;
use crate::failure::{Failure, Kind};
use crate::hot::sweep::{start_clean, sweep};
use groot_core::blob::sha256;
use groot_core::directory::fingerprint;
use groot_document::{Value as Json, format_json, json};
use groot_image::{Reference, Wanted, layout};
use groot_store::clean::Outcome;
use groot_store::images::{Wishes, check_compressed};
use groot_store::locks::{GLOBAL, GLOBAL_DEADLINE};
use groot_store::mappings::Mappings;
use groot_store::records::Image;
use groot_store::spec::{Shape, describe};
use groot_store::volumes::Demand;
use groot_store::{Error, Store};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Make an image.
pub fn create(call: &Call) -> Done {
    let [image, id] = &call.positional[..] else {
        return Some(Err(usage_error("invalid arguments - usage: create [options] <image> <id>")));
    };
    let has = |names: [&str; 2]| names.iter().any(|name| call.given.has(name));
    if has(["with-clean", "clean"]) && has(["without-clean", "no-clean"]) {
        return Some(Err(usage_error("with-clean and without-clean cannot be used together")));
    }
    if call.given.has("password-stdin") {
        return None; // Python reads it
    }
    let data = json!({"imageID": id.to_string_lossy(), "image": image.to_string_lossy()});
    let made = session(&call.log, "groot-creating", data, |log| {
        make(call, image, id.as_bytes(), &Told { log, metrics: &call.metrics }).ok_or(None)?.map_err(Some)
    });
    // After this an image is made, or is not to be: Python has no part in it any more.
    let made = match done(made)? {
        Ok(made) => made,
        Err(error) => return Some(Err(error)),
    };
    let apart = call.settings.rules().cleans_apart;
    if call.settings.with_clean && apart {
        start_clean(&call.settings, &call.log, &["/proc/self/exe".into()]);
    }
    let swept = if call.settings.with_clean && !apart { sweep(call, Some(&made.store)) } else { Some(Ok(Outcome::Done)) };
    if swept.is_none() {
        // It takes a user namespace, which only Python makes; the next clean by itself does it.
        call.log.info("cleanup-left-to-the-next-clean", Json::Null);
    }
    if let Some(Err(error)) = swept {
        // The image is made, and that is what was asked for: what somebody else left must not take it from the caller.
        if error.kind == Kind::Cancelled {
            call.log.info("cleanup-stopped", Json::Null);
        } else {
            call.log.error("failed-to-cleanup-store", error.message.to_string_lossy(), Json::Null);
        }
    }
    report_sizes(call, &made.store);
    Some(Ok(if call.settings.json { format_json(&made.spec).into() } else { made.path.into_os_string() }))
}

struct Made {
    path: PathBuf,
    spec: Json,
    /// What it is in, still open.
    store: Store,
}

/// None if Python has to do it; then nothing was done.
fn make(call: &Call, argument: &OsStr, id: &[u8], told: &Told<'_>) -> Option<Result<Made, Failure>> {
    let store = open(call).ok()?;
    let wishes = wishes_of(call, &store)?;
    let report = |error: Error| failure(error).map(Err);
    if let Err(error) = store.check_new_image(id) {
        return report(error);
    }
    let begun = Instant::now();
    let (source, image, demand) = resolve(call, &store, argument, told)?;
    send_time(told.metrics, "ImageResolveTime", begun);
    if let Err(error) = check_compressed(&image, &wishes) {
        return report(error);
    }
    let shared = store.lock(GLOBAL, true, GLOBAL_DEADLINE, signals::stopped());
    let shared = match shared {
        Ok(shared) => shared,
        Err(error) => return report(error),
    };
    let held = Instant::now();
    // The image and all below it, or nothing: a layer that is missing has to be fetched.
    let volume = match store.existing_volume(&image.chain_ids, &demand, signals::stopped()) {
        Ok(volume) => volume?,
        Err(error) => return report(error),
    };
    #[allow(clippy::cast_precision_loss)]
    told.metrics.send("SharedLockingTime", shared.waited.as_nanos() as f64, groot_telemetry::NANOS);
    let made = store.create_image(volume, id, &image, &wishes, &source, told, signals::stopped());
    drop(shared);
    send_time(told.metrics, "SharedLockHoldTime", held);
    let result = match made {
        Ok(path) => {
            let rules = call.settings.rules();
            let mounted = !wishes.without_mount || wishes.idmapped.is_some();
            let shape = Shape { mounted, volumes: rules.has_volumes, args: rules.has_args };
            Ok(Made { spec: describe(&image, &path, shape), path, store })
        }
        // Python cleans the store, and tries once more.
        Err(error) if error.full => return None,
        Err(error) => Err(failure(error)?),
    };
    send_time(told.metrics, "ImageCreationTime", begun);
    Some(result)
}

/// How the image is wanted; None for what Python refuses with a text of its own.
fn wishes_of(call: &Call, store: &Store) -> Option<Wishes> {
    let settings = &call.settings;
    let texts = |list: &[OsString]| list.iter().map(|text| text.to_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let given = Mappings::parse(&texts(&settings.uid_mappings)?, &texts(&settings.gid_mappings)?).ok()?;
    let own = store.mappings();
    if settings.idmapped_mount {
        let may = rustix::process::geteuid().is_root() && own.is_empty() && !given.uids.is_empty() && !given.gids.is_empty();
        may.then_some(())?;
    } else if !given.is_empty() {
        let same = Mappings::are_same(&given.uids, &own.uids) && Mappings::are_same(&given.gids, &own.gids);
        same.then_some(())?;
    }
    Some(Wishes {
        limit: settings.disk_limit,
        exclude_image: settings.exclude_image,
        without_mount: !settings.mount,
        idmapped: settings.idmapped_mount.then_some(given),
        without_volumes: !settings.rules().has_volumes,
    })
}

/// What an image argument stands for, if that can be said without doubt: the name that the store remembers it by, the image, and
/// what its volume has to be.
fn resolve(call: &Call, store: &Store, argument: &OsStr, told: &Told<'_>) -> Option<(String, Image, Demand)> {
    let settings = &call.settings;
    let text = argument.to_str()?;
    let platform = settings.platform.to_str()?;
    let name = if platform.is_empty() { text.to_owned() } else { format!("{text} {platform}") };
    let Some((scheme, _)) = text.split_once("://") else {
        // Python says why a directory is refused.
        if !settings.rules().takes_directories && Path::new(text).is_dir() {
            return None;
        }
        let (image, demand) = local(store, text)?;
        return Some((name, image, demand));
    };
    match scheme {
        "oci" => {
            let reference = Reference::parse(argument).ok()?;
            let wanted = Wanted::parse(platform).ok()?;
            let image = layout::resolve(&reference, &wanted, !settings.skip_layer_validation).ok()?;
            // What is said of an image is for people, and Python says it.
            image.warnings.is_empty().then_some(())?;
            let parts = Image {
                chain_ids: image.chain_ids().map(str::to_owned).collect(),
                compressed: image.compressed_size(),
                named: None,
                config: image.config,
                env: image.env,
                volumes: image.volumes,
            };
            Some((name, parts, Demand { validated: image.validated, file: None }))
        }
        "docker" => {
            let image = registry::resolve(call, store, text, &name, told)?;
            Some((name, image, Demand { validated: true, file: None }))
        }
        _ => None,
    }
}

/// A tar file is known by its path and time, a directory by the metadata of everything in it.
fn local(store: &Store, text: &str) -> Option<(Image, Demand)> {
    let path = Path::new(text);
    let image = if std::fs::metadata(path).ok()?.is_dir() {
        let whole = std::path::absolute(path).ok()?;
        let whole = groot_store::layout::normalise(&whole);
        let key = format!("{}-{}", whole.to_str()?, fingerprint(path, signals::stopped()).ok()?);
        groot_image::Image::of_one(sha256(key.as_bytes()), groot_image::Origin::Empty)
    } else {
        groot_image::Image::of_tar(path).ok()?
    };
    let chain_ids: Vec<_> = image.chain_ids().map(str::to_owned).collect();
    // An archive of images is known by what is in it.
    store.has_volume(chain_ids.last()?).ok()?.then_some(())?;
    let demand = Demand { validated: true, file: image.file };
    Some((Image { chain_ids, config: image.config, ..Image::default() }, demand))
}

/// Send what the store holds, after a create and the clean that may follow it.
fn report_sizes(call: &Call, store: &Store) {
    if !call.metrics.is_active() {
        return; // the sums cost a look at every record
    }
    let rules = call.settings.rules();
    send_usage(store, call);
    // The newest leaves it to the clean that it has begun.
    if !(rules.cleans_apart && call.settings.with_clean) {
        send_layers(store, call);
    }
    let layers = if rules.gauges_layers { store.cached_bytes().unwrap_or(0) } else { 0 };
    #[allow(clippy::cast_precision_loss)]
    call.metrics.send_apart("DownloadedLayersSizeInBytes", layers as f64, 0.0, groot_telemetry::BYTES);
    let committed = if rules.measures_newly { store.committed_bytes() } else { store.committed_limits() };
    send_bytes(&call.metrics, "CommittedQuotaInBytes", committed.unwrap_or(0));
}
