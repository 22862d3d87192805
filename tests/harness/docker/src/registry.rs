//! A registry with one image, on a port of the engine's loopback. It can be switched to refuse all requests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cluster::Image;
use cluster::forward::Forward;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Engine;

/// Maximum length of a request's line.
const LINE: u64 = 8192;
/// Limit of reading a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Media type and content by path.
type Content = BTreeMap<String, (&'static str, Vec<u8>)>;

/// A registry that serves until it is dropped.
pub struct Registry {
    port: u16,
    image: String,
    state: Arc<State>,
    address: std::net::SocketAddr,
    _forward: Forward,
}

#[derive(Default)]
struct State {
    refuses: AtomicBool,
    ended: AtomicBool,
    paths: Mutex<Vec<String>>,
}

impl Registry {
    /// Serves `image` as `name` on this port of the engine's 127.0.0.1, where engines accept plain HTTP.
    pub fn start(engine: &Engine, port: u16, name: &str, image: &Image) -> Result<Self> {
        let archive = engine.folder()?.join(format!("registry-{port}.tar"));
        image.write(&archive)?;
        let content = Arc::new(unpack(&archive, name).context("unpacking the image")?);
        fs::remove_file(archive)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::Builder::new().name("registry".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::Acquire) {
                    break;
                }
                let (content, shared) = (Arc::clone(&content), Arc::clone(&shared));
                // A client retries when the connection breaks.
                let _ = thread::Builder::new().spawn(move || serve(&client, &content, &shared));
            }
        })?;
        let forward = engine.expose(port, address)?;
        Ok(Self { port, image: name.to_owned(), state, address, _forward: forward })
    }

    /// Reference to pull.
    pub fn reference(&self) -> String {
        format!("127.0.0.1:{}/{}:1", self.port, self.image)
    }

    /// Refuses all requests from now on, or none.
    pub fn refuse(&self, all: bool) {
        self.state.refuses.store(all, Ordering::Release);
    }

    /// Paths of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.paths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        // Wakes the thread from accept.
        let _ = TcpStream::connect_timeout(&self.address, REQUEST_TIMEOUT);
    }
}

/// Turns an image's archive into a registry's content: blobs by digest, and a manifest.
fn unpack(archive: &std::path::Path, name: &str) -> Result<Content> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(entry.path()?.display().to_string(), bytes);
    }
    let mut file = |name: &str| files.remove(name).with_context(|| format!("the archive has no {name}"));
    let list: Value = serde_json::from_slice(&file("manifest.json")?)?;
    let mut content = Content::new();
    let mut blob = |kind: &str, bytes: Vec<u8>| {
        let (digest, size) = (digest(&bytes), bytes.len());
        content.insert(format!("/v2/{name}/blobs/{digest}"), ("application/octet-stream", bytes));
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size})
    };
    let config = blob("config.v1+json", file(list[0]["Config"].as_str().unwrap_or_default())?);
    let names = list[0]["Layers"].as_array().context("the manifest has no layers")?;
    let mut layers = Vec::new();
    for layer in names {
        layers.push(blob("layer.v1.tar", file(layer.as_str().unwrap_or_default())?));
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let manifest = serde_json::to_vec(&manifest)?;
    for reference in ["1".to_owned(), digest(&manifest)] {
        content.insert(format!("/v2/{name}/manifests/{reference}"), (MANIFEST, manifest.clone()));
    }
    content.insert("/v2/".to_owned(), ("application/json", b"{}".to_vec()));
    Ok(content)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn serve(client: &TcpStream, content: &Content, state: &State) -> io::Result<()> {
    client.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut lines = BufReader::new(client);
    // Engines try TLS first, and use plain HTTP after a plain answer.
    if lines.fill_buf()?.first() == Some(&0x16) {
        return answer(client, "400 Bad Request", "text/plain", &[], false);
    }
    let mut line = || -> io::Result<String> {
        let mut line = String::new();
        lines.by_ref().take(LINE).read_line(&mut line)?;
        Ok(line)
    };
    let request = line()?;
    while !line()?.trim().is_empty() {}
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    state.paths.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
    let whole = method != "HEAD";
    if state.refuses.load(Ordering::Acquire) {
        let why = json!({"errors": [{"code": "DENIED", "message": "access to this registry is denied"}]});
        return answer(client, "403 Forbidden", "application/json", why.to_string().as_bytes(), whole);
    }
    match content.get(path) {
        Some((kind, bytes)) => answer(client, "200 OK", kind, bytes, whole),
        None => answer(client, "404 Not Found", "application/json", b"{}", whole),
    }
}

fn answer(mut client: &TcpStream, status: &str, kind: &str, body: &[u8], whole: bool) -> io::Result<()> {
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\n\r\n"
    )?;
    client.write_all(if whole { body } else { &[] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_names_blobs_by_digest_and_size() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("program"), "program").expect("file is written");
        let archive = folder.path().join("a.tar");
        Image::of_program("docker.io/local/a:1", &folder.path().join("program"))
            .write(&archive)
            .expect("packed");
        let content = unpack(&archive, "a").expect("unpacked");
        let manifest: Value = serde_json::from_slice(&content["/v2/a/manifests/1"].1).expect("JSON");
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let digest = part["digest"].as_str().expect("a digest");
            let (_, bytes) = &content[&format!("/v2/a/blobs/{digest}")];
            assert_eq!(
                (part["size"].as_u64(), super::digest(bytes).as_str()),
                (Some(bytes.len() as u64), digest)
            );
        }
    }
}
