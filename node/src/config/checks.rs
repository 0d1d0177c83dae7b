//! Single settings that are more than a value of a type. Each check gives a line that names the
//! setting, what was found, and what is expected.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{ErrorKind, Read},
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use axolotl_common::{Hash, PublicKey, genesis::GenesisDocument};

/// Largest genesis document, bytes: the limit of a data directory as well.
const MAX_GENESIS_BYTES: u64 = 64 << 20;

/// `http://host:port`: what follows would be dropped without a word.
pub(super) fn registry_url(url: &str) -> Result<(), String> {
    let fault = |why: &str| {
        Err(format!(
            "REGISTRY_URL={url}: {why}; expected http://host:port"
        ))
    };
    match reqwest::Url::parse(url) {
        Err(error) => fault(&error.to_string()),
        Ok(_) if !url.contains("://") => fault("it does not begin with http://"),
        Ok(parsed) if parsed.scheme() != "http" => fault("only plain http is spoken"),
        Ok(parsed) if parsed.host_str().is_none() => fault("no host"),
        Ok(parsed) if parsed.path() != "/" || parsed.query().is_some() => fault("it has a path"),
        Ok(parsed) if !parsed.username().is_empty() => fault("it has a user name"),
        Ok(_) => Ok(()),
    }
}

/// A node that is told of no genesis has one in its data directory.
pub(super) fn kept_genesis(data_dir: &OsStr) -> Result<(), String> {
    if Path::new(data_dir).join("genesis.json").exists() {
        return Ok(());
    }
    Err(
        "GENESIS_FILE is not set, and neither is REGISTRY_URL: the node would have no genesis"
            .into(),
    )
}

/// A peer to dial: host, TCP port and peer id.
pub(super) fn peer_address(address: &str) -> Result<(), String> {
    let fault = |why: &str| {
        Err(format!(
            "BOOTSTRAP_PEERS={address}: {why}; expected /ip4/…/tcp/…/p2p/… or /dns4/…/tcp/…/p2p/…"
        ))
    };
    let parts: Vec<&str> = address.split('/').collect();
    let ["", kind, host, "tcp", port, "p2p", peer_id] = parts[..] else {
        return fault("it does not have these parts");
    };
    let fits = match kind {
        "ip4" => host.parse::<Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => !host.is_empty() && !host.contains([' ', ':']),
        _ => return fault(&format!("/{kind}/ is not spoken")),
    };
    if !fits {
        return fault(&format!("{host:?} is no host of that kind"));
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return fault(&format!("{port:?} is no port"));
    }
    match PublicKey::from_peer_id(peer_id) {
        Ok(_) => Ok(()),
        Err(error) => fault(&error.to_string()),
    }
}

/// The genesis found in `source` is the one that GENESIS_HASH names; `remedy` says what else may be wrong.
pub(crate) fn pinned(source: &str, found: Hash, pinned: Hash, remedy: &str) -> Result<(), String> {
    if found == pinned {
        return Ok(());
    }
    Err(format!(
        "{source}: its genesis has the hash {found}, and GENESIS_HASH={pinned}; {remedy}, or correct GENESIS_HASH"
    ))
}

/// What to do about a GENESIS_FILE of another chain.
pub(crate) const OTHER_FILE: &str = "name the file of that chain";
/// What to do about a DATA_DIR of another chain.
pub(crate) const OTHER_DIRECTORY: &str = "choose another data directory";

/// The genesis that a data directory keeps, if there is one, is the pinned one. What cannot be read is
/// reported when the directory is opened.
pub(super) fn kept_genesis_is(data_dir: &OsStr, hash: Hash) -> Result<(), String> {
    let mut text = Vec::new();
    let path = Path::new(data_dir).join("genesis.json");
    let read =
        File::open(path).and_then(|file| file.take(MAX_GENESIS_BYTES).read_to_end(&mut text));
    match read.map(|_| GenesisDocument::parse(&text)) {
        Ok(Ok(kept)) => {
            let source = format!("DATA_DIR={}", Path::new(data_dir).display());
            pinned(&source, kept.hash(), hash, OTHER_DIRECTORY)
        }
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

/// A genesis document that can be read and is one, with the pinned hash. What its accounts and fees mean is
/// checked when the chain is opened.
pub(super) fn genesis_file(path: &Path, hash: Option<Hash>) -> Result<(), String> {
    let fault = |why: String| Err(format!("GENESIS_FILE={}: {why}", path.display()));
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return fault(format!("{error}; `axolotl genesis make` writes one"));
        }
        Err(error) => return fault(error.to_string()),
        Ok(found) if !found.is_file() => return fault("expected a file".into()),
        Ok(found) if found.len() > MAX_GENESIS_BYTES => {
            return fault(format!(
                "{} bytes, at most {MAX_GENESIS_BYTES}",
                found.len()
            ));
        }
        Ok(_) => {}
    }
    match fs::read(path) {
        Err(error) => fault(error.to_string()),
        Ok(text) => match GenesisDocument::parse(&text) {
            Err(error) => fault(error.to_string()),
            Ok(document) => hash.map_or(Ok(()), |hash| {
                let source = format!("GENESIS_FILE={}", path.display());
                pinned(&source, document.hash(), hash, OTHER_FILE)
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use axolotl_common::KeyPair;

    use super::*;

    fn refused(checked: Result<(), String>, why: &str) {
        let fault = checked.unwrap_err();
        assert!(fault.contains(why), "{fault} does not say {why:?}");
    }

    #[test]
    fn registries_are_hosts() {
        for url in [
            "http://registry:9090",
            "http://127.0.0.1:1/",
            "http://[::1]:9",
        ] {
            assert_eq!(registry_url(url), Ok(()), "{url}");
        }
        for (url, why) in [
            ("registry:9090", "does not begin with http://"),
            ("registry", "relative URL"),
            ("https://registry:9090", "plain http"),
            ("http://", "empty host"),
            ("http://registry:9090/api", "path"),
            ("http://registry:9090/?a=b", "path"),
            ("http://me@registry:9090", "user name"),
            ("http://registry:99999", "invalid port"),
        ] {
            refused(registry_url(url), why);
        }
    }

    #[test]
    fn peers_have_a_host_a_port_and_a_key() {
        let id = KeyPair::from_seed(&[1; 32]).public().peer_id();
        for host in ["ip4/10.0.0.1", "ip6/::1", "dns4/node1", "dns/node1.example"] {
            let address = format!("/{host}/tcp/50051/p2p/{id}");
            assert_eq!(peer_address(&address), Ok(()));
        }
        for (address, why) in [
            ("node1".to_owned(), "these parts"),
            ("/ip4/10.0.0.1/tcp/1".to_owned(), "these parts"),
            (format!("/ip4/10.0.0.1/udp/1/p2p/{id}"), "these parts"),
            (format!("/ip4/node1/tcp/1/p2p/{id}"), "no host of that kind"),
            (format!("/ip4/10.0.0.1/tcp/70000/p2p/{id}"), "no port"),
            (format!("/ip4/10.0.0.1/tcp/0/p2p/{id}"), "no port"),
            (format!("/unix/x/tcp/1/p2p/{id}"), "/unix/ is not spoken"),
            ("/ip4/10.0.0.1/tcp/1/p2p/12D3".to_owned(), "BOOTSTRAP_PEERS"),
        ] {
            refused(peer_address(&address), why);
        }
    }

    #[test]
    fn a_genesis_is_a_document() {
        let directory = tempfile::tempdir().unwrap();
        refused(genesis_file(directory.path(), None), "expected a file");
        let none = directory.path().join("none");
        refused(genesis_file(&none, None), "No such file");
        let path = directory.path().join("genesis.json");
        for (text, why) in [
            ("", "not JSON"),
            ("{\"config\":", "not JSON"),
            ("[]", "config.chainId"),
            ("{\"config\":{\"chainId\":\"7777\"}}", "config.chainId"),
            ("{\"config\":{\"chainId\":7777}}", "axolotl"),
            (
                "{\"config\":{\"chainId\":7777},\"axolotl\":{\"validators\":[]}}",
                "validators",
            ),
        ] {
            fs::write(&path, text).unwrap();
            refused(genesis_file(&path, None), why);
        }
        let file = fs::File::create(&path).unwrap();
        file.set_len(MAX_GENESIS_BYTES + 1).unwrap();
        refused(genesis_file(&path, None), "at most");
    }
}
