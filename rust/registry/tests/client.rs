//! The question, asked of a small server on loopback that answers what it is told to and counts.

use groot_registry::client::{Options, Outcome, Question, Resolved, resolve, wants_proxy};
use groot_registry::credentials::default_files;
use groot_registry::reference::Reference;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BODY: &str = r#"{"schemaVersion":2}"#;
const DIGEST: &str = "sha256:e5e15a6b0d6a1d9d1eeb0ea0dac0b0ea53fd3bfc0f4a5b7a52b1a4bde6e51a2b";

/// Status, headers and body of a reply.
type Answer = (u16, Vec<String>, String);

/// A request: its first line, and the value of `Authorization`.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A server that speaks plain http. ``answer`` gets the first line and `Authorization`, and gives status, headers and body; a
/// body is not sent for HEAD.
fn serve(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Seen::default();
    let (log, answer) = (seen.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (log, answer) = (log.clone(), answer.clone());
            std::thread::spawn(move || talk(stream, &log, &*answer));
        }
    });
    (address, seen)
}

fn talk(stream: impl Read + Write, seen: &Seen, answer: &dyn Fn(&str, &str) -> Answer) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // a handshake of TLS is no request
            if lines.is_empty() && !line.contains("HTTP/1.1") {
                return;
            }
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let given = lines.iter().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        let first = lines[0].trim_end_matches(" HTTP/1.1").to_owned();
        let (status, headers, body) = answer(&first, given);
        seen.lock().unwrap().push((first.clone(), given.to_owned()));
        let sent = if first.starts_with("HEAD") { "" } else { body.as_str() };
        let head = headers.concat();
        write!(reader.get_mut(), "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{head}\r\n{sent}", body.len()).unwrap();
        reader.get_mut().flush().unwrap();
    }
}

fn found() -> Answer {
    (200, vec![format!("Content-Type: {MANIFEST}; x=y\r\n"), format!("Docker-Content-Digest: {DIGEST}\r\n")], BODY.into())
}

fn status(code: u16, headers: &[&str]) -> Answer {
    (code, headers.iter().map(|line| format!("{line}\r\n")).collect(), String::new())
}

fn options(insecure: &[&str]) -> Options {
    Options { insecure_registries: insecure.iter().map(|&host| host.to_owned()).collect(), response_timeout: 5, ..Options::default() }
}

fn ask(address: &str, options: &Options) -> Outcome {
    resolve(&Reference::parse(&format!("docker://{address}/team/app:v1")).unwrap(), options)
}

#[track_caller]
fn resolved(outcome: Outcome) -> Resolved {
    match outcome {
        Outcome::Resolved(found) => found,
        Outcome::NotPlain(reason) => panic!("not plain: {reason}"),
    }
}

#[test]
fn one_head_is_enough() {
    let (address, seen) = serve(|_, _| found());
    let answer = resolved(ask(&address, &options(&[&address])));
    assert_eq!((answer.digest.as_str(), answer.media_type.as_str(), answer.size), (DIGEST, MANIFEST, Some(BODY.len() as u64)));
    assert_eq!(answer.body, None);
    assert_eq!(seen.lock().unwrap().as_slice(), [("HEAD /v2/team/app/manifests/v1".to_owned(), String::new())]);
}

#[test]
fn get_is_asked_where_head_is_not_there_or_says_too_little() {
    for weak in [405, 404, 501, 200] {
        let (address, seen) = serve(move |first, _| {
            if first.starts_with("HEAD") { status(weak, &[]) } else { (200, vec![format!("Content-Type: {MANIFEST}\r\n")], BODY.into()) }
        });
        let answer = resolved(ask(&address, &options(&[&address])));
        assert_eq!(answer.body.as_deref(), Some(BODY.as_bytes()));
        assert!(answer.digest.starts_with("sha256:") && answer.digest != DIGEST);
        assert_eq!(seen.lock().unwrap().len(), 2);
    }
}

#[test]
fn a_document_with_another_digest_is_not_believed() {
    let (address, _) = serve(|first, _| if first.starts_with("HEAD") { status(405, &[]) } else { found() });
    assert_eq!(ask(&address, &options(&[&address])), Outcome::NotPlain("another digest"));
    let (address, _) = serve(|_, _| found());
    let other = format!("docker://{address}/team/app@sha256:{}", "0".repeat(64));
    assert_eq!(resolve(&Reference::parse(&other).unwrap(), &options(&[&address])), Outcome::NotPlain("another digest"));
}

#[test]
fn basic_authorisation_only_after_a_challenge() {
    let (address, seen) = serve(|_, given| match given {
        "Basic dXNlcjpwdw==" => found(),
        _ => status(401, &["WWW-Authenticate: Basic realm=\"x\""]),
    });
    let login = Options { login: ("user".into(), "pw".into()), ..options(&[&address]) };
    resolved(ask(&address, &login));
    let given: Vec<_> = seen.lock().unwrap().iter().map(|(_, given)| given.clone()).collect();
    assert_eq!(given, ["", "Basic dXNlcjpwdw=="]);
    assert_eq!(ask(&address, &options(&[&address])), Outcome::NotPlain("no credentials"));
    let wrong = Options { login: ("user".into(), "no".into()), ..options(&[&address]) };
    // a second scheme is not tried: a registry answered
    assert_eq!(ask(&address, &wrong), Outcome::NotPlain("a refusal"));
}

#[test]
fn tokens_with_credentials_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let (address, seen) = serve(|_, given| match given {
        "Basic dTpw" => (200, vec![], r#"{"access_token":"tok"}"#.into()),
        _ => status(401, &[]),
    });
    let realm = format!("http://{address}/token?x=1");
    let (front, _) = serve(move |_, given| match given {
        "Bearer tok" => found(),
        _ => status(401, &[&format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"a b\"")]),
    });
    std::fs::write(&file, format!(r#"{{"auths":{{"http://{front}/v2/":{{"auth":"dTpw"}}}}}}"#)).unwrap();
    let with_file = Options { credential_files: vec![directory.path().join("absent"), file], ..options(&[&front]) };
    let answer = resolved(ask(&front, &with_file));
    assert_eq!(answer.exchanges.len(), 3 + 1, "https in vain, HEAD, token, HEAD");
    let asked = seen.lock().unwrap()[0].0.clone();
    assert_eq!(asked, "GET /token?x=1&account=u&service=a%20b&scope=repository%3Ateam%2Fapp%3Apull");
    // a helper is for the other client
    let helper = directory.path().join("helper.json");
    std::fs::write(&helper, r#"{"credsStore":"x"}"#).unwrap();
    let with_helper = Options { credential_files: vec![helper], ..options(&[&front]) };
    assert_eq!(ask(&front, &with_helper), Outcome::NotPlain("a credential helper"));
}

#[test]
fn token_servers_in_the_own_network_are_refused() {
    for realm in ["https://169.254.169.254/t", "https://0x7f000001/t", "http://user:pw@127.0.0.1/t", "file:///t", "/t"] {
        let (address, seen) = serve(move |_, _| status(401, &[&format!("WWW-Authenticate: Bearer realm=\"{realm}\"")]));
        assert!(matches!(ask(&address, &options(&[&address])), Outcome::NotPlain(_)), "{realm}");
        assert!(seen.lock().unwrap().iter().all(|(first, _)| !first.contains("/t?")));
    }
}

#[test]
fn what_is_not_plain() {
    for (answer, reason) in [
        (status(307, &["Location: /elsewhere"]), "a redirect"),
        (status(429, &[]), "a refusal"),
        (status(503, &[]), "a refusal"),
        (status(403, &[]), "a refusal"),
        (status(404, &[]), "a refusal"),
        (status(401, &["WWW-Authenticate: Negotiate"]), "an unusual challenge"),
        (status(401, &[]), "an unusual challenge"),
    ] {
        let (address, _) = serve(move |first, _| if first == "GET /v2/" { status(200, &[]) } else { answer.clone() });
        assert_eq!(ask(&address, &options(&[&address])), Outcome::NotPlain(reason));
    }
    // plain http is spoken only to an insecure registry
    let (address, seen) = serve(|_, _| found());
    assert_eq!(ask(&address, &options(&[])), Outcome::NotPlain("no reply"));
    assert_eq!(seen.lock().unwrap().len(), 0);
}

#[test]
fn mirrors_in_order_and_then_the_registry() {
    let (bad, _) = serve(|_, _| status(500, &[]));
    let (good, seen) = serve(|_, _| found());
    let (registry, origin) = serve(|_, _| found());
    let mirrors = vec![(registry.to_uppercase(), vec![format!("http://{bad}"), format!(" http://{good}/hub/ ")])];
    let answer = resolved(ask(&registry, &Options { mirrors: mirrors.clone(), ..options(&[&registry]) }));
    assert_eq!(answer.failed_mirrors, [(bad.clone(), "a refusal")]);
    assert_eq!(seen.lock().unwrap()[0].0, "HEAD /v2/hub/team/app/manifests/v1");
    assert_eq!(origin.lock().unwrap().len(), 0);
    let mirrors = vec![(registry.clone(), vec![format!("http://{bad}")])];
    let login = ("u".to_owned(), "p".to_owned());
    resolved(ask(&registry, &Options { mirrors, login, ..options(&[&registry]) }));
    assert_eq!(origin.lock().unwrap().len(), 1);
}

/// An authority and a server's certificate for 127.0.0.1, made with openssl.
fn make_certificates(directory: &Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
        echo 'subjectAltName=IP:127.0.0.1' >ext
        openssl req -new -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem";
    let done = Command::new("sh").arg("-ec").arg(script).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn tls_is_verified_with_what_is_in_certs_d() {
    let directory = tempfile::tempdir().unwrap();
    make_certificates(directory.path());
    let chain = CertificateDer::pem_file_iter(directory.path().join("server.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.path().join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Seen::default();
    let log = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            talk(rustls::StreamOwned::new(connection, stream), &log, &|_, _| found());
        }
    });
    assert_eq!(ask(&address, &options(&[])), Outcome::NotPlain("no reply"));
    assert_eq!(seen.lock().unwrap().len(), 0);
    let certs = directory.path().join("certs.d").join(&address);
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(directory.path().join("ca.pem"), certs.join("ca.crt")).unwrap();
    let trusting = Options { certs_dirs: vec![directory.path().join("certs.d")], ..options(&[]) };
    assert_eq!(resolved(ask(&address, &trusting)).exchanges.len(), 1);
    assert_eq!(resolved(ask(&address, &options(&[&address]))).exchanges.len(), 1);
    std::fs::write(certs.join("a.cert"), "nonsense").unwrap();
    assert_eq!(ask(&address, &trusting), Outcome::NotPlain("unusable certificates"));
}

fn question(url: &str, options: Options) -> Question {
    Question { reference: Reference::parse(url).unwrap(), options }
}

#[test]
fn who_is_stopped_does_not_wait_for_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // takes connections and says nothing
    let address = listener.local_addr().unwrap().to_string();
    let stopped = AtomicBool::new(false);
    let asked = question(&format!("docker://{address}/a"), Options { response_timeout: 600, ..options(&[&address]) });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            listener.accept().unwrap();
            stopped.store(true, Relaxed);
        });
        assert_eq!(asked.ask(&stopped), None);
    });
    let (address, _) = serve(|_, _| found());
    let asked = question(&format!("docker://{address}/a"), options(&[&address]));
    assert!(matches!(asked.ask(&AtomicBool::new(false)), Some(Outcome::Resolved(_))));
}

#[test]
fn a_question_is_another_one_with_other_credentials_or_trust() {
    let login = |user: &str, password: &str| Options { login: (user.into(), password.into()), ..Options::default() };
    let files = |path: &str| Options { credential_files: vec![path.into()], ..Options::default() };
    let named = Options { auth_file: Some("/f".into()), ..Options::default() };
    let options = [Options::default(), login("u", "p"), login("u", "q"), login("", "p"), files("/a"), files("/b"), named, options(&["h"])];
    let keys: BTreeSet<_> = options.into_iter().map(|options| question("docker://h/a", options).key("docker://h/a", 0)).collect();
    assert_eq!(keys.len(), 8);
    let one = question("docker://h/a", Options::default());
    assert!(!keys.contains(&one.key("docker://h/a", 1)) && !keys.contains(&one.key("docker://h/a arm64", 0)));
    assert!(keys.iter().all(|key| key.len() == 64));
    let [one, two] = [["a", "b"], ["b", "a"]].map(|list| question("docker://h/a", self::options(&list)).key("", 0));
    assert_eq!(one, two);
}

#[test]
fn what_is_shown_are_registry_repository_and_credentials() {
    let login = Options { login: ("u".into(), "p".into()), ..Options::default() };
    assert_eq!(question("docker://H/a", login).shown().unwrap(), ["h", "a", "u", "p", "", ""]);
    assert_eq!(question("docker:///a", Options::default()).shown().unwrap(), ["docker.io", "library/a", "", "", "", ""]);
    let missing = Options { auth_file: Some("/no/such".into()), ..Options::default() };
    assert_eq!(question("docker:///a", missing).shown(), Err("an unusable file of credentials"));
}

#[test]
fn the_environment_says_where_credentials_are_and_whether_there_is_a_proxy() {
    let files = |variables: &[(&str, &str)]| {
        let lookup = |name: &str| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).into());
        default_files(lookup).into_iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(files(&[("HOME", "/h")]), ["/h/.docker/config.json", "/h/.config/containers/auth.json"]);
    let all = [("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/r"), ("DOCKER_CONFIG", "/d"), ("XDG_RUNTIME_DIR", "/x"), ("XDG_CONFIG_HOME", "/c")];
    assert_eq!(files(&all), ["/r", "/d/config.json", "/x/containers/auth.json", "/c/containers/auth.json"]);
    assert_eq!(files(&[("HOME", "/h"), ("DOCKER_CONFIG", ""), ("XDG_RUNTIME_DIR", "")]).len(), 2);

    assert!(wants_proxy(|name| (name == "https_proxy").then(|| "http://p".into())));
    assert!(!wants_proxy(|name| (name == "NO_PROXY").then(|| "*".into())) && !wants_proxy(|_| Some(OsString::new())));
}
