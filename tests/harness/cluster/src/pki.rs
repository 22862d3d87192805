//! Certificates: a certificate authority per cluster, server and client certificates, and kubeconfigs that hold them.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::addresses::{self, DOMAIN};

/// The group with all permissions.
const MASTERS: &str = "system:masters";

/// The certificate authority. The certificates are files of `folder`.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: Issuer<'static, KeyPair>,
    authority_pem: String,
}

impl Pki {
    /// Creates an authority, the apiserver's certificate, and the key that signs service account tokens.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "test-cluster");
        let authority_pem = params.self_signed(&key)?.pem();
        let pki = Self { folder: folder.to_owned(), authority: Issuer::new(params, key), authority_pem };
        pki.save("ca.crt", &pki.authority_pem)?;

        let tokens = KeyPair::generate()?;
        pki.save("tokens.key", &tokens.serialize_pem())?;
        pki.save("tokens.pub", &tokens.public_key_pem())?;

        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"];
        let mut names: Vec<String> = names.map(str::to_owned).to_vec();
        names.extend([format!("kubernetes.default.svc.{DOMAIN}"), addresses::HUB.to_string()]);
        names.push(addresses::KUBERNETES.to_string());
        let server = CertificateParams::new(names)?;
        pki.issue("apiserver", server, ExtendedKeyUsagePurpose::ServerAuth, "kube-apiserver", None)?;
        pki.client("apiserver-to-kubelet", "kube-apiserver", Some(MASTERS))?;
        Ok(pki)
    }

    /// Writes the kubeconfig of a component that runs in the cluster's networks.
    pub(crate) fn kubeconfig(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let name = user.replace(':', "-");
        self.client(&name, user, group)?;
        let file = self.folder.join(format!("{name}.kubeconfig"));
        write_kubeconfig(&self.folder, &name, &addresses::api(), &file)?;
        Ok(file)
    }

    /// Issues the administrator's certificate, for [`admin_kubeconfig`].
    pub(crate) fn admin(&self) -> Result<()> {
        self.client("admin", "admin", Some(MASTERS))
    }

    fn client(&self, name: &str, user: &str, group: Option<&str>) -> Result<()> {
        self.issue(name, CertificateParams::default(), ExtendedKeyUsagePurpose::ClientAuth, user, group)
    }

    fn issue(
        &self,
        name: &str,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        user: &str,
        group: Option<&str>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let certificate =
            params.signed_by(&key, &self.authority).with_context(|| format!("issuing {name}"))?;
        self.save(&format!("{name}.crt"), &certificate.pem())?;
        self.save(&format!("{name}.key"), &key.serialize_pem())
    }

    fn save(&self, name: &str, pem: &str) -> Result<()> {
        write_secret(&self.folder.join(name), pem.as_bytes())
    }

    /// Path of a file.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Writes the administrator's kubeconfig for the apiserver at `server`. `folder` is the folder of a [`Pki`].
pub(crate) fn admin_kubeconfig(folder: &Path, server: &str, file: &Path) -> Result<()> {
    write_kubeconfig(folder, "admin", server, file)
}

fn write_kubeconfig(folder: &Path, name: &str, server: &str, file: &Path) -> Result<()> {
    let data = |file: String| Ok::<_, std::io::Error>(BASE64.encode(fs::read(folder.join(file))?));
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": server, "certificate-authority-data": data("ca.crt".to_owned())?,
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": data(format!("{name}.crt"))?,
            "client-key-data": data(format!("{name}.key"))?,
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        "current-context": "test",
    });
    write_secret(file, &serde_json::to_vec_pretty(&config)?)
}

fn write_secret(file: &Path, contents: &[u8]) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file_handle = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(std::io::Write::write_all(&mut file_handle, contents)?)
}
