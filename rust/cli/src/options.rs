//! THE table: commands, their options, and the keys of the configuration file.
//!
//! Parsing, help, completion, the manual page and the configuration are all made from it, for the installed `grootfs` and, by
//! the bindings, for Python. An option names the setting that it sets; a key of the file names the same setting with every
//! spelling that any release read (contract, sections 2 and 3).

use std::borrow::Cow;

/// The option whose value no list of processes is to show.
pub const SECRET: &str = "password";

/// What value an option takes, and how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Any text; the last one counts.
    Text,
    /// A text that is a path, which completion knows.
    Path,
    /// One of some words, which completion knows.
    Choice(&'static [&'static str]),
    /// A number of bytes, in Go's syntax or with a unit.
    Integer,
    /// A number of something else.
    Count,
    /// No value; `--name=false` is allowed.
    Switch,
    /// A text that may be given several times.
    List,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What it takes.
    pub form: Form,
    /// What it does, in some words.
    pub help: &'static str,
    /// What help shows as its default; empty for nothing.
    pub default: &'static str,
    sets: &'static str,
}

impl Flag {
    const fn new(name: &'static str, form: Form, help: &'static str) -> Self {
        Self { name, form, help, default: "", sets: "" }
    }

    const fn sets(self, setting: &'static str) -> Self {
        Self { sets: setting, ..self }
    }

    const fn default(self, text: &'static str) -> Self {
        Self { default: text, ..self }
    }

    /// The setting that it sets: of its own name, unless the table says otherwise.
    #[must_use]
    pub fn setting(&self) -> Cow<'static, str> {
        if self.sets.is_empty() { self.name.replace('-', "_").into() } else { self.sets.into() }
    }
}

/// A command: what it is called and what it takes.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What other programs call the same.
    pub aliases: &'static [&'static str],
    /// What it does, in some words.
    pub summary: &'static str,
    /// Its positional arguments, as help shows them.
    pub arguments: &'static str,
    /// More about it; empty, or lines.
    pub description: &'static str,
    /// Calls of it, one a line.
    pub examples: &'static str,
    /// Whether help and completion leave it out.
    pub hidden: bool,
    /// Its options.
    pub flags: &'static [Flag],
}

/// What a key of the configuration file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// A string; a number is one too.
    Text,
    /// True or false, in any word of YAML 1.1.
    Switch,
    /// A whole number.
    Integer,
    /// A number of bytes, or a string with a unit.
    Bytes,
    /// A list of strings.
    List,
    /// A mapping of names to lists of strings.
    Lists,
}

/// A setting as the configuration file has it.
#[derive(Debug)]
pub struct Key {
    /// Its name in `Settings` and `Flag::setting`.
    pub setting: &'static str,
    /// What it holds.
    pub form: KeyForm,
    /// Its keys, dotted; the newest first, and the first that is there counts.
    pub spellings: &'static [&'static str],
}

/// The setting that says which site file counted (`site`).
pub const SITE_FILE: &str = "site_file";

/// The command of this name.
#[must_use]
pub fn find(name: &std::ffi::OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || command.aliases.iter().any(|alias| *alias == name))
}

/// The names of all settings: of keys of the file, of options, and what joining them adds.
pub fn settings() -> impl Iterator<Item = Cow<'static, str>> {
    let flags = COMMANDS.iter().flat_map(|command| command.flags).chain(GLOBALS);
    KEYS.iter().map(|key| key.setting.into()).chain(flags.map(Flag::setting)).chain([SITE_FILE.into()])
}

/// The commands that help, completion and manual show.
pub fn visible() -> impl Iterator<Item = &'static Command> + Clone {
    COMMANDS.iter().filter(|command| !command.hidden)
}

/// Help and version, which every call takes beside `GLOBALS`; `--help` is known to the parser.
pub const HELP: Flag = Flag::new("help", Form::Switch, "show help");
/// See `HELP`.
pub const VERSION: Flag = Flag::new("version", Form::Switch, "print the version");
/// See `HELP`.
pub const VERSION_SHORT: Flag = Flag::new("v", Form::Switch, "print the version");

const UID_MAPPING: Flag = Flag::new("uid-mapping", Form::List, "user ids as <in the image>:<on the host>:<size>").sets("uid_mappings");
const GID_MAPPING: Flag = Flag::new("gid-mapping", Form::List, "group ids as <in the image>:<on the host>:<size>").sets("gid_mappings");
const THRESHOLD: Flag =
    Flag::new("threshold-bytes", Form::Integer, "only clean when the cached layers hold at least this much").sets("threshold");

/// The options that come before the command.
pub const GLOBALS: &[Flag] = &[
    Flag::new("config", Form::Path, "configuration file (YAML)"),
    Flag::new("store", Form::Path, "directory of the store").default("/var/lib/grootfs"),
    Flag::new("socket", Form::Path, "where `serve` listens"),
    Flag::new(
        "compatibility",
        Form::Choice(&["none", "blog", "btrfs", "newest"]),
        "whose output, texts and defaults: none, blog, btrfs or newest",
    )
    .default("none"),
    Flag::new("driver", Form::Text, "storage driver").default("btrfs"),
    Flag::new("output", Form::Choice(&["text", "json"]), "what stands on stdout: text, or json for programs, failures too").default("text"),
    Flag::new("log-level", Form::Choice(&["debug", "info", "error", "fatal"]), "debug, info, error or fatal").default("fatal"),
    Flag::new("log-file", Form::Path, "write the log there instead of to stderr"),
    Flag::new("log-time-format", Form::Choice(&["unix-epoch", "rfc3339"]), "unix-epoch, or rfc3339: timestamps and levels as words")
        .default("unix-epoch"),
    Flag::new("correlation-id", Form::Text, "stands in every line of the log").default("$GROOTFS_CORRELATION_ID, or a random one"),
    Flag::new("metron-endpoint", Form::Text, "host:port that gets metrics"),
    Flag::new("metrics-file", Form::Path, "add metrics to this file, for the textfile collector of Prometheus' node exporter"),
    Flag::new("drax-bin", Form::Path, "the helper that sets limits without root").default("drax"),
    Flag::new("newuidmap-bin", Form::Path, "the helper that maps user ids").default("newuidmap"),
    Flag::new("newgidmap-bin", Form::Path, "the helper that maps group ids").default("newgidmap"),
    Flag::new("btrfs-progs-path", Form::Path, "directory of mkfs.btrfs").default("$PATH"),
    Flag::new("btrfs-bin", Form::Text, "accepted, not used: no btrfs program is run"),
    Flag::new("tardis-bin", Form::Text, "accepted, not used: belongs to the overlay-xfs driver"),
    Flag::new("xfsprogs-path", Form::Text, "accepted, not used: belongs to the overlay-xfs driver"),
];

/// All commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "init-store",
        aliases: &[],
        summary: "Make a store, or check one that is there",
        arguments: "",
        description: concat!(
            "Needs root. Running it again is harmless: it mounts the store's file after a reboot and repairs missing folders. Nothing\n",
            "that exists is ever formatted, or mounted over."
        ),
        examples: concat!(
            "grootfs init-store --store-size-bytes 10737418240\n",
            "grootfs --store /var/lib/alice init-store --store-size-bytes 10737418240 --rootless alice:alice"
        ),
        hidden: false,
        flags: &[
            UID_MAPPING,
            GID_MAPPING,
            Flag::new("rootless", Form::Text, "take the mappings of <user>:<group> from /etc/subuid and /etc/subgid"),
            Flag::new("store-size-bytes", Form::Integer, "keep the store in a file of this size beside it; a smaller one grows")
                .sets("store_size"),
            Flag::new("quota", Form::Choice(&["simple", "full"]), "accounting to turn on where there is none: simple or full")
                .default("simple on file systems it makes"),
            Flag::new(
                "limits-by",
                Form::Choice(&["owner", "root"]),
                "who may change disk limits that are set: owner (of the store) or root",
            )
            .default("as it is; owner at first"),
            Flag::new("with-direct-io", Form::Switch, "have the store's own loop device write past the page cache")
                .default("true; false with `--compatibility newest`"),
        ],
    },
    Command {
        name: "create",
        aliases: &[],
        summary: "Make an image (a root file system) for a container",
        arguments: "<image> <id>",
        description: concat!(
            "<image> is docker://host/name[:tag|@digest], oci:///directory[:tag][@digest], docker-archive:FILE[:name],\n",
            "oci-archive:FILE[:name], or the path of a tar file or directory.\n",
            "Prints the image's directory, which holds image.json and rootfs; with --json a partial runtime specification."
        ),
        examples: concat!(
            "grootfs create docker://registry.example.com/app:v1 my-container\n",
            "grootfs create --disk-limit-size-bytes 1073741824 oci:///images/app:v1 my-container"
        ),
        hidden: false,
        flags: &[
            Flag::new("disk-limit-size-bytes", Form::Integer, "disk limit, the image's own size included")
                .sets("disk_limit")
                .default("no limit"),
            Flag::new("exclude-image-from-quota", Form::Switch, "leave the image's own size out of the limit").sets("exclude_image"),
            Flag::new("insecure-registry", Form::List, "host:port to trust without TLS").sets("insecure_registries"),
            Flag::new("username", Form::Text, "user at the registry"),
            Flag::new(SECRET, Form::Text, "password at the registry"),
            Flag::new("password-stdin", Form::Switch, "read the password from stdin"),
            Flag::new("auth-file", Form::Text, "docker's config.json or podman's auth.json to look in for credentials"),
            Flag::new("platform", Form::Text, "os/architecture[/variant] of the image").default("this machine's"),
            Flag::new("pull-policy", Form::Choice(&["always", "missing"]), "always, or missing: use what the store has under this name")
                .default("always"),
            Flag::new(
                "progress",
                Form::Choice(&["auto", "plain", "json", "none"]),
                "on stderr: auto (drawn on a terminal), plain or json (lines), none",
            )
            .default("auto"),
            Flag::new(
                "image-verification",
                Form::Choice(&["always", "cached", "never"]),
                "ask the registry for what is here: always, cached or never",
            )
            .default("always"),
            Flag::new("skip-layer-validation", Form::Switch, "do not check sizes and digests of oci:// layers"),
            Flag::new("json", Form::Switch, "print a partial runtime specification"),
            Flag::new("with-clean", Form::Switch, "clean up unused layers afterwards"),
            Flag::new("without-clean", Form::Switch, "do not clean, whatever the configuration says"),
            Flag::new("clean-log-file", Form::Path, "write the log of that clean there"),
            THRESHOLD,
            Flag::new("with-mount", Form::Switch, "make the root file system in place (default)"),
            Flag::new("without-mount", Form::Switch, "leave rootfs empty; the output says what to bind there"),
            Flag::new("idmapped-mount", Form::Switch, "translate ids by mounting, not by storing (root; with mappings)"),
            UID_MAPPING,
            GID_MAPPING,
            Flag::new("clean", Form::Switch, "as --with-clean"),
            Flag::new("no-clean", Form::Switch, "as --without-clean"),
        ],
    },
    Command {
        name: "delete",
        aliases: &["rm"],
        summary: "Remove an image",
        arguments: "<id|image path>",
        description: "Cached layers stay until clean. Removing what is not there succeeds.",
        examples: concat!("grootfs delete my-container\n", "grootfs delete /var/lib/grootfs/images/my-container"),
        hidden: false,
        flags: &[],
    },
    Command {
        name: "stats",
        aliases: &[],
        summary: "Print the disk usage of an image",
        arguments: "<id|image path>",
        description: concat!(
            "With --store that of the whole store instead: used and reclaimable bytes, by image and by layer, from counters and\n",
            "records."
        ),
        examples: concat!("grootfs stats my-container\n", "grootfs --store /var/lib/grootfs stats --store"),
        hidden: false,
        flags: &[Flag::new("store", Form::Switch, "the whole store instead of one image").sets("whole_store")],
    },
    Command {
        name: "clean",
        aliases: &[],
        summary: "Remove the layers that no image uses",
        arguments: "",
        description: concat!(
            "With conditions, of which one has to hold: --threshold-bytes, --free-bytes, --free-percent. With --keep-bytes those go\n",
            "first that were used longest ago. What is free is what the disk below has, where the store is in a sparse file."
        ),
        examples: concat!(
            "grootfs clean\n",
            "grootfs clean --threshold-bytes 10737418240 --ignore-image docker://registry.example.com/base:v1"
        ),
        hidden: false,
        flags: &[
            THRESHOLD,
            Flag::new("free-bytes", Form::Integer, "clean also when less than this much is free").sets("clean_free"),
            Flag::new("free-percent", Form::Count, "clean also when less than so much of the disk is free").sets("clean_free_percent"),
            Flag::new("keep-bytes", Form::Integer, "keep the layers used last, as long as all layers hold at most this").sets("clean_keep"),
            Flag::new("ignore-image", Form::List, "keep the layers of this image").sets("ignore_images"),
            Flag::new("cache-bytes", Form::Integer, "as --threshold-bytes").sets("threshold"),
        ],
    },
    Command {
        name: "list",
        aliases: &["ls", "images"],
        summary: "Print the directories of all images",
        arguments: "",
        description: "With --json one array of objects: id, path, rootfs, layers, image_size_bytes, quota_size_bytes.",
        examples: concat!("grootfs list\n", "grootfs list --json"),
        hidden: false,
        flags: &[Flag::new("json", Form::Switch, "print ids, layers, sizes and limits as JSON").sets("list_json")],
    },
    Command {
        name: "capacity",
        aliases: &[],
        summary: "Print the size of the store",
        arguments: "",
        description: concat!(
            "As Garden asks for it: `init.store_size_bytes` of the configuration file, 0 where it says nothing; if the store is in a\n",
            "file already, the size of that."
        ),
        examples: "grootfs --config /etc/grootfs/unprivileged.yml capacity",
        hidden: false,
        flags: &[],
    },
    Command {
        name: "doctor",
        aliases: &[],
        summary: "Say what keeps this machine, user or store from working, and the cure",
        arguments: "",
        description: concat!(
            "Looks at kernel, mount options, quotas, helpers, subordinate ids, limits and space, and changes nothing.\n",
            "Ends with exit code 1 if something is broken; a warning is no failure."
        ),
        examples: concat!("grootfs --store /var/lib/grootfs doctor\n", "grootfs --config /etc/grootfs/unprivileged.yml doctor --json"),
        hidden: false,
        flags: &[Flag::new("json", Form::Switch, "print an array of check, state (ok, warn, broken), text and cure").sets("doctor_json")],
    },
    Command {
        name: "migrate",
        aliases: &[],
        summary: "Turn on simple quotas for a store that has full ones or none",
        arguments: "",
        description: concat!(
            "Without --quota it only says how the store counts and what would happen. Needs root and Linux 6.7. Older kernels cannot\n",
            "mount the file system afterwards."
        ),
        examples: concat!("grootfs --store /var/lib/grootfs migrate\n", "grootfs --store /var/lib/grootfs migrate --quota simple"),
        hidden: false,
        flags: &[Flag::new("quota", Form::Choice(&["simple"]), "do it; the value is `simple`")],
    },
    Command {
        name: "delete-store",
        aliases: &[],
        summary: "Remove a store with everything in it",
        arguments: "",
        description: "A store in a file of its own is unmounted and the file removed; any other file system stays, without the store.",
        examples: "grootfs --store /var/lib/grootfs delete-store",
        hidden: false,
        flags: &[],
    },
    Command {
        name: "serve",
        aliases: &[],
        summary: "Serve the HTTP interface on a socket",
        arguments: "",
        description: concat!(
            "Listens on the socket that --socket, GROOTFS_SOCKET or `socket` in the configuration file names, or on the one that\n",
            "systemd hands over. Works for root and for the user it runs as, for nobody else. SIGTERM lets what is running finish.\n",
            "The interface is described at /openapi.json."
        ),
        examples: "grootfs --socket /run/grootfs.sock serve",
        hidden: false,
        flags: &[
            Flag::new("max-operations", Form::Count, "operations that run at once; others wait their turn").default("32"),
            Flag::new("max-pulls", Form::Count, "creates that fetch or unpack layers at once").default("one a processor"),
        ],
    },
    Command {
        name: "completion",
        aliases: &[],
        summary: "Print the completion file of a shell",
        arguments: "<bash|zsh|fish>",
        description: "`make install` puts all three in place.",
        examples: "grootfs completion bash > /usr/local/share/bash-completion/completions/grootfs",
        hidden: false,
        flags: &[],
    },
    Command {
        name: "man-page",
        aliases: &[],
        summary: "Print the manual page",
        arguments: "",
        description: "",
        examples: "grootfs man-page | man -l -",
        hidden: true,
        flags: &[],
    },
    Command {
        name: "generate-volume-size-metadata",
        aliases: &[],
        summary: "Record the sizes of volumes that have no record",
        arguments: "",
        description: "",
        examples: "grootfs --store /var/lib/grootfs generate-volume-size-metadata",
        hidden: true,
        flags: &[],
    },
    Command {
        name: "check",
        aliases: &[],
        summary: "Look for damage and leftovers in the store",
        arguments: "",
        description: concat!(
            "Prints a line for each finding: error (something is damaged), warning (something is left over or will be missed) or\n",
            "note. Changes nothing unless told to, and leaves running commands and what is theirs alone. The exit code is 0\n",
            "when no error or warning is left, else 1."
        ),
        examples: concat!("grootfs check\n", "grootfs check --deep\n", "grootfs check --dry-run\n", "grootfs check --repair"),
        hidden: false,
        flags: &[
            Flag::new("deep", Form::Switch, "read every file of every volume and hold it against what was unpacked"),
            Flag::new("repair", Form::Switch, "put right what no living image uses"),
            Flag::new("dry-run", Form::Switch, "say what --repair would put right, and change nothing"),
            Flag::new("json", Form::Switch, "print a JSON document"),
        ],
    },
];

/// The settings that a configuration file may hold.
pub const KEYS: &[Key] = &[
    Key { setting: "store", form: KeyForm::Text, spellings: &["store", "store_path"] },
    Key { setting: "socket", form: KeyForm::Text, spellings: &["socket"] },
    Key { setting: "compatibility", form: KeyForm::Text, spellings: &["compatibility"] },
    Key { setting: "driver", form: KeyForm::Text, spellings: &["driver"] },
    Key { setting: "drax_bin", form: KeyForm::Text, spellings: &["drax_bin"] },
    Key { setting: "tardis_bin", form: KeyForm::Text, spellings: &["tardis_bin"] },
    Key { setting: "btrfs_progs_path", form: KeyForm::Text, spellings: &["btrfs_progs_path"] },
    Key { setting: "btrfs_bin", form: KeyForm::Text, spellings: &["btrfs_bin"] },
    Key { setting: "newuidmap_bin", form: KeyForm::Text, spellings: &["newuidmap_bin"] },
    Key { setting: "newgidmap_bin", form: KeyForm::Text, spellings: &["newgidmap_bin"] },
    Key { setting: "metron_endpoint", form: KeyForm::Text, spellings: &["metron_endpoint"] },
    Key { setting: "metrics_file", form: KeyForm::Text, spellings: &["metrics_file"] },
    Key { setting: "log_level", form: KeyForm::Text, spellings: &["log_level"] },
    Key { setting: "log_file", form: KeyForm::Text, spellings: &["log_file"] },
    Key { setting: "log_time_format", form: KeyForm::Text, spellings: &["log_time_format"] },
    Key { setting: "with_clean", form: KeyForm::Switch, spellings: &["create.with_clean", "clean_on_create"] },
    Key { setting: "clean_log_file", form: KeyForm::Text, spellings: &["create.clean_log_file"] },
    Key { setting: "without_mount", form: KeyForm::Switch, spellings: &["create.without_mount"] },
    Key { setting: "json", form: KeyForm::Switch, spellings: &["create.json"] },
    Key { setting: "disk_limit", form: KeyForm::Bytes, spellings: &["create.disk_limit_size_bytes", "disk_limit_size_bytes"] },
    Key {
        setting: "exclude_image",
        form: KeyForm::Switch,
        spellings: &["create.exclude_image_from_quota", "exclude_base_image_from_quota"],
    },
    Key { setting: "skip_layer_validation", form: KeyForm::Switch, spellings: &["create.skip_layer_validation"] },
    Key { setting: "idmapped_mount", form: KeyForm::Switch, spellings: &["create.idmapped_mount"] },
    Key { setting: "platform", form: KeyForm::Text, spellings: &["create.platform"] },
    Key { setting: "pull_policy", form: KeyForm::Text, spellings: &["create.pull_policy"] },
    Key { setting: "image_verification", form: KeyForm::Text, spellings: &["create.image_verification"] },
    Key { setting: "verification_lifetime", form: KeyForm::Integer, spellings: &["create.image_verification_lifetime_seconds"] },
    Key { setting: "share_content", form: KeyForm::Text, spellings: &["create.share_content"] },
    Key { setting: "join_small_layers", form: KeyForm::Switch, spellings: &["create.join_small_layers"] },
    Key { setting: "auth_file", form: KeyForm::Text, spellings: &["create.auth_file"] },
    Key { setting: "trusted_hosts", form: KeyForm::List, spellings: &["create.trusted_hosts"] },
    Key { setting: "response_timeout", form: KeyForm::Integer, spellings: &["create.registry_response_timeout_seconds"] },
    Key { setting: "registry_hosts", form: KeyForm::Text, spellings: &["create.registry_hosts_path"] },
    Key { setting: "registry_mirrors", form: KeyForm::Lists, spellings: &["create.registry_mirrors", "registry_mirrors"] },
    Key { setting: "insecure_registries", form: KeyForm::List, spellings: &["create.insecure_registries", "insecure_registries"] },
    Key {
        setting: "remote_layer_certificates",
        form: KeyForm::Text,
        spellings: &["create.remote_layer_client_certificates_path", "create.blobstore_client_certificates_path"],
    },
    Key { setting: "threshold", form: KeyForm::Bytes, spellings: &["clean.threshold_bytes", "clean.cache_bytes", "clean_threshold_bytes"] },
    Key { setting: "clean_free", form: KeyForm::Bytes, spellings: &["clean.free_bytes"] },
    Key { setting: "clean_free_percent", form: KeyForm::Integer, spellings: &["clean.free_percent"] },
    Key { setting: "clean_keep", form: KeyForm::Bytes, spellings: &["clean.keep_bytes"] },
    Key { setting: "ignore_images", form: KeyForm::List, spellings: &["clean.ignore_images", "ignore_base_images"] },
    Key { setting: "uid_mappings", form: KeyForm::List, spellings: &["create.uid_mappings", "uid_mappings"] },
    Key { setting: "gid_mappings", form: KeyForm::List, spellings: &["create.gid_mappings", "gid_mappings"] },
    Key { setting: "store_size", form: KeyForm::Bytes, spellings: &["init.store_size_bytes"] },
    Key { setting: "with_direct_io", form: KeyForm::Switch, spellings: &["init.with_direct_io"] },
];

/// Variables of the environment that are read, and what they are. Options come before them, files after.
pub const VARIABLES: &[(&str, &str)] = &[
    ("GROOTFS_STORE", "the store; as --store"),
    ("GROOTFS_CONFIG", "the configuration file; as --config"),
    ("GROOTFS_COMPATIBILITY", "as --compatibility"),
    ("GROOTFS_SOCKET", "as --socket"),
    ("GROOTFS_CORRELATION_ID", "as --correlation-id"),
    ("GROOTFS_DEFAULTS", "the site file, in place of those below FILES"),
    ("DOCKER_CONFIG", "the directory of docker's config.json, with logins of registries"),
    ("REGISTRY_AUTH_FILE", "podman's auth.json, the same"),
    ("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "how registries are reached; in lower case too"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "where traces go, if the program has OpenTelemetry; with the SDK's other variables"),
    ("TRACEPARENT", "the trace that a command is part of"),
    ("NO_COLOR, TERM", "whether progress is drawn"),
];

/// Keys that a release, or who writes files for it, had and that mean nothing here.
pub const WITHOUT_MEANING: &[&str] =
    &["xfsprogs_path", "slow_action_threshold", "log_timestamp_format", "init.owneruser", "init.ownergroup"];

#[cfg(test)]
pub(crate) fn test_flags() -> &'static [Flag] {
    const FLAGS: &[Flag] = &[
        Flag::new("text", Form::Text, ""),
        Flag::new("count", Form::Integer, ""),
        Flag::new("yes", Form::Switch, ""),
        Flag::new("many", Form::List, ""),
    ];
    FLAGS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::parse;
    use std::collections::HashSet;
    use std::ffi::OsString;

    #[test]
    fn names_are_distinct_and_described() {
        for flags in COMMANDS.iter().map(|command| command.flags).chain([GLOBALS]) {
            let names: HashSet<_> = flags.iter().map(|flag| flag.name).collect();
            assert_eq!(names.len(), flags.len());
            assert!(flags.iter().all(|flag| !flag.help.is_empty()));
        }
        assert_eq!(COMMANDS.iter().map(|command| command.name).collect::<HashSet<_>>().len(), COMMANDS.len());
        assert_eq!(KEYS.iter().map(|key| key.setting).collect::<HashSet<_>>().len(), KEYS.len());
    }

    /// Each command has examples, and each is a call that the command would take.
    #[test]
    fn examples_are_right() {
        for command in COMMANDS {
            let mut shows_itself = false;
            for line in command.examples.lines() {
                let call = line.split(['>', '|']).next().unwrap();
                let mut words = call.split_whitespace().map(OsString::from);
                assert_eq!(words.next().unwrap(), "grootfs");
                let (_, rest) = parse(words, GLOBALS, true).unwrap();
                let called = find(&rest[0]).unwrap();
                let (given, positional) = parse(rest[1..].iter().cloned(), called.flags, false).unwrap();
                let wanted = if given.has("store") { 0 } else { called.arguments.matches('<').count() };
                assert_eq!(positional.len(), wanted, "{line}");
                shows_itself |= called.name == command.name;
            }
            assert!(shows_itself, "{}", command.name);
        }
    }
}
