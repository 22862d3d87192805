//! A registry of one image, on a port of the engine's loopback: for pulls that work, and for those that are refused.

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

/// Longest line of a request; engines ask in short ones.
const LINE: u64 = 8192;
/// How long a client may think.
const PATIENCE: Duration = Duration::from_secs(30);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What it has, by path.
type Things = BTreeMap<String, (&'static str, Vec<u8>)>;

/// One that serves, as long as this lives.
pub struct Registry {
    port: u16,
    image: String,
    asked: Arc<Asked>,
    address: std::net::SocketAddr,
    _way: Forward,
}

#[derive(Default)]
struct Asked {
    refuses: AtomicBool,
    ended: AtomicBool,
    paths: Mutex<Vec<String>>,
}

impl Registry {
    /// Serves `image` under `name` on that port of the engine's `127.0.0.1`, where engines speak HTTP.
    pub fn start(engine: &Engine, port: u16, name: &str, image: &Image) -> Result<Self> {
        let archive = engine.folder()?.join(format!("registry-{port}.tar"));
        image.write(&archive)?;
        let things = Arc::new(unpack(&archive, name).context("unpacking the image")?);
        fs::remove_file(archive)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let asked = Arc::new(Asked::default());
        let shared = Arc::clone(&asked);
        thread::Builder::new().name("registry".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::Acquire) {
                    break;
                }
                let (things, shared) = (Arc::clone(&things), Arc::clone(&shared));
                // Who hangs up asks again.
                let _ = thread::Builder::new().spawn(move || serve(&client, &things, &shared));
            }
        })?;
        let way = engine.expose(port, address)?;
        Ok(Self { port, image: name.to_owned(), asked, address, _way: way })
    }

    /// What to pull.
    pub fn reference(&self) -> String {
        format!("127.0.0.1:{}/{}:1", self.port, self.image)
    }

    /// From now on it refuses all, or none.
    pub fn refuse(&self, all: bool) {
        self.asked.refuses.store(all, Ordering::Release);
    }

    /// What it was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.paths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.asked.ended.store(true, Ordering::Release);
        // Wakes it from accept.
        let _ = TcpStream::connect_timeout(&self.address, PATIENCE);
    }
}

/// An image's archive as a registry has it: blobs by their digest, and a manifest that names them.
fn unpack(archive: &std::path::Path, name: &str) -> Result<Things> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(entry.path()?.display().to_string(), bytes);
    }
    let mut file = |name: &str| files.remove(name).with_context(|| format!("no {name} in it"));
    let list: Value = serde_json::from_slice(&file("manifest.json")?)?;
    let mut things = Things::new();
    let mut blob = |kind: &str, bytes: Vec<u8>| {
        let (digest, size) = (digest(&bytes), bytes.len());
        things.insert(format!("/v2/{name}/blobs/{digest}"), ("application/octet-stream", bytes));
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size})
    };
    let config = blob("config.v1+json", file(list[0]["Config"].as_str().unwrap_or_default())?);
    let names = list[0]["Layers"].as_array().context("it names its layers")?;
    let mut layers = Vec::new();
    for layer in names {
        layers.push(blob("layer.v1.tar", file(layer.as_str().unwrap_or_default())?));
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let manifest = serde_json::to_vec(&manifest)?;
    for reference in ["1".to_owned(), digest(&manifest)] {
        things.insert(format!("/v2/{name}/manifests/{reference}"), (MANIFEST, manifest.clone()));
    }
    things.insert("/v2/".to_owned(), ("application/json", b"{}".to_vec()));
    Ok(things)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn serve(client: &TcpStream, things: &Things, asked: &Asked) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(client);
    // Who begins with TLS is told in plain words that there is none, and comes again.
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
    asked.paths.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
    let whole = method != "HEAD";
    if asked.refuses.load(Ordering::Acquire) {
        let why = json!({"errors": [{"code": "DENIED", "message": "this registry lets nobody in"}]});
        return answer(client, "403 Forbidden", "application/json", why.to_string().as_bytes(), whole);
    }
    match things.get(path) {
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
    fn an_image_is_found_by_its_digests() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("program"), "program").expect("writes");
        let archive = folder.path().join("a.tar");
        Image::of_program("docker.io/local/a:1", &folder.path().join("program"))
            .write(&archive)
            .expect("packed");
        let things = unpack(&archive, "a").expect("unpacked");
        let manifest: Value = serde_json::from_slice(&things["/v2/a/manifests/1"].1).expect("JSON");
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let digest = part["digest"].as_str().expect("a digest");
            let (_, bytes) = &things[&format!("/v2/a/blobs/{digest}")];
            assert_eq!(
                (part["size"].as_u64(), super::digest(bytes).as_str()),
                (Some(bytes.len() as u64), digest)
            );
        }
    }
}
