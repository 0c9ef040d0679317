//! Certificates for trying things out: made on first use, kept in a directory.
//!
//! | file | what it is |
//! |---|---|
//! | `ca.pem` | a certificate authority that has signed the other two |
//! | `server.pem`, `server.key` | a server called `localhost`, 127.0.0.1 and ::1 |
//! | `client.pem`, `client.key` | a client |
//!
//! The key of the authority is thrown away once it has signed: nobody who finds
//! these files can make further certificates that its trusters would accept.

// Every example and test uses only a part of it.
#![allow(dead_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

/// A set of development certificates with their keys, PEM encoded.
pub struct DevCerts {
    /// The authority, which both sides trust.
    pub ca_pem: Vec<u8>,
    /// The server's certificate.
    pub server_pem: Vec<u8>,
    /// The server's private key.
    pub server_key: Vec<u8>,
    /// The client's certificate.
    pub client_pem: Vec<u8>,
    /// The client's private key.
    pub client_key: Vec<u8>,
}

/// Loads the certificates in `dir`, or makes them if there are none.
///
/// Processes that do so at once agree on one set. Validity is not checked: a
/// set older than a year loads, and fails in the TLS handshake.
///
/// # Errors
///
/// If a file cannot be read or written, or the set in `dir` is incomplete.
pub fn ensure(dir: &Path) -> io::Result<DevCerts> {
    if !is_complete(dir) {
        match generate(dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => wait_for_other_maker(dir)?,
            made => return made,
        }
    }
    load(dir)
}

/// Makes a new set in `dir`, unless there is one, or a part of one.
///
/// # Errors
///
/// [`ErrorKind::AlreadyExists`] if so; else if a file cannot be written.
pub fn generate(dir: &Path) -> io::Result<DevCerts> {
    fs::create_dir_all(dir)?;
    // A set that lacks its first file must not be mixed with a new one.
    if let Some(there) = FILES.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
        let text = format!("{} is there already", there.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    // Whoever creates the first file makes the set, and the authority comes
    // last: if it is there, all are.
    let mut claim = create(dir, SERVER_KEY)?;
    let certs = sign_set().map_err(io::Error::other)?;
    claim.write_all(&certs.server_key)?;
    create(dir, SERVER_PEM)?.write_all(&certs.server_pem)?;
    create(dir, CLIENT_KEY)?.write_all(&certs.client_key)?;
    create(dir, CLIENT_PEM)?.write_all(&certs.client_pem)?;
    // Written beside and moved, so that nobody sees half of it.
    create(dir, CA_PEM_UNFINISHED)?.write_all(&certs.ca_pem)?;
    fs::rename(dir.join(CA_PEM_UNFINISHED), dir.join(CA_PEM))?;
    Ok(certs)
}

/// Removes the set in `dir`, whole or in parts.
///
/// # Errors
///
/// If a file is there but cannot be removed.
pub fn remove(dir: &Path) -> io::Result<()> {
    // The authority first: what is left without it counts as no set. The claim
    // last, so that nobody makes a new set among the remains.
    for name in FILES {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_complete(dir: &Path) -> bool {
    dir.join(CA_PEM).exists()
}

fn load(dir: &Path) -> io::Result<DevCerts> {
    let read = |name| {
        let path = dir.join(name);
        fs::read(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}; {HOW_TO_RENEW}", path.display()))
        })
    };
    Ok(DevCerts {
        ca_pem: read(CA_PEM)?,
        server_pem: read(SERVER_PEM)?,
        server_key: read(SERVER_KEY)?,
        client_pem: read(CLIENT_PEM)?,
        client_key: read(CLIENT_KEY)?,
    })
}

/// Waits for a process that makes the set at this moment, as test binaries that
/// run side by side may.
fn wait_for_other_maker(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + MAKING_MAX;
    while !is_complete(dir) {
        if Instant::now() >= deadline {
            let text = format!("{}: incomplete set of certificates; {HOW_TO_RENEW}", dir.display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A new file, which only its owner can read if it is a key.
fn create(dir: &Path, name: &str) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if name.ends_with(".key") {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    let path = dir.join(name);
    options
        .open(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn sign_set() -> Result<DevCerts, rcgen::Error> {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut ca_params = params("evermux development CA", &[])?;
    // Signs end entities only, no further authorities.
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca_params.self_signed(&ca_key)?.pem().into_bytes();
    let ca = Issuer::new(ca_params, ca_key);

    let server = params("evermux development server", &["localhost", "127.0.0.1", "::1"])?;
    let client = params("evermux development client", &[])?;
    let (server_pem, server_key) = sign(server, ExtendedKeyUsagePurpose::ServerAuth, &ca)?;
    let (client_pem, client_key) = sign(client, ExtendedKeyUsagePurpose::ClientAuth, &ca)?;
    Ok(DevCerts { ca_pem, server_pem, server_key, client_pem, client_key })
}

/// A certificate for `usage` and its new key.
fn sign(
    mut params: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
    ca: &Issuer<'_, KeyPair>,
) -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let cert = params.signed_by(&key, ca)?;
    Ok((cert.pem().into_bytes(), key.serialize_pem().into_bytes()))
}

fn params(name: &str, alt_names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let alt_names: Vec<String> = alt_names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(alt_names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    // A clock before 1970 makes certificates that are long expired: TLS will
    // say so.
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + since_1970;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + VALIDITY;
    Ok(params)
}

const CA_PEM: &str = "ca.pem";
const SERVER_PEM: &str = "server.pem";
const SERVER_KEY: &str = "server.key";
const CLIENT_PEM: &str = "client.pem";
const CLIENT_KEY: &str = "client.key";

const CA_PEM_UNFINISHED: &str = "ca.pem.new";

/// All that can be there, in the order of removal.
const FILES: [&str; 6] =
    [CA_PEM, CA_PEM_UNFINISHED, CLIENT_PEM, CLIENT_KEY, SERVER_PEM, SERVER_KEY];

const HOW_TO_RENEW: &str = "`cargo run --example gen_certs -- --force` makes a new set";

/// A year: long enough to forget about them, short enough to be of no use
/// where they should not be.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How far the clock of a machine that checks them may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// How long another process may take to make a set: it is a matter of
/// milliseconds, so one that takes longer has died over it.
const MAKING_MAX: Duration = Duration::from_secs(5);
