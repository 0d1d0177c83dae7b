//! Options that several commands share.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use super::{
    json_rpc::{JsonRpc, RpcError},
    output::Usage,
    registry::DEFAULT_REGISTRY_URL,
};

/// Most time for one call to a node or registry.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a node's JSON-RPC listens when nothing else is said.
pub const DEFAULT_RPC_URL: &str = "http://127.0.0.1:8545";

/// Which node is asked.
#[derive(Args, Clone, Debug)]
pub struct RpcArgs {
    /// JSON-RPC of the node to ask.
    #[arg(long, env = "AXOLOTL_RPC", default_value = DEFAULT_RPC_URL, value_name = "URL")]
    pub rpc: String,
}

impl RpcArgs {
    /// A client of the node.
    ///
    /// # Errors
    /// When the address is none that can be asked.
    pub fn client(&self) -> anyhow::Result<JsonRpc> {
        check_url("--rpc", &self.rpc)?;
        Ok(JsonRpc::new(&self.rpc, CALL_TIMEOUT)?)
    }
}

/// A time with its unit.
///
/// # Errors
/// What is expected.
pub fn time(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a time with its unit, such as 5s or 250ms")
}

/// A number from 1.
///
/// # Errors
/// What is expected.
pub fn count(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "expected a whole number from 1")
}

/// An address that can be asked where a program listens on this one: of all addresses, this machine's own.
pub fn asked_at(listens: IpAddr) -> IpAddr {
    match listens {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// A failed call in the words of a command: what happened, and what to do.
pub fn advise(error: RpcError) -> anyhow::Error {
    match &error {
        RpcError::Unreachable { .. } => anyhow::anyhow!(
            "{error}\nIs a node running there? Start the system with \
             ./scripts/start-auto-scaling.sh, or name another node with --rpc or AXOLOTL_RPC: of a \
             system on this machine the next ones listen at 8546 and so on, and `axolotl status` \
             shows all while the registry runs."
        ),
        RpcError::Unexpected { .. } => anyhow::anyhow!(
            "{error}\nIs it the JSON-RPC port (8545) of an Axolotl node? Check --rpc."
        ),
        RpcError::Refused { .. } => error.into(),
    }
}

/// Which registry is asked.
#[derive(Args, Clone, Debug)]
pub struct RegistryArgs {
    /// Registry to ask; REGISTRY_URL is read too [default: http://127.0.0.1:9090].
    #[arg(long, env = "AXOLOTL_REGISTRY", value_name = "URL")]
    pub registry: Option<String>,
    /// The same under the name that nodes have for it.
    #[arg(long, env = "REGISTRY_URL", hide = true, value_name = "URL")]
    pub registry_url: Option<String>,
}

impl RegistryArgs {
    /// The registry's address, when one was named.
    pub fn named(&self) -> Option<&str> {
        let named = [&self.registry, &self.registry_url];
        let mut given = named.into_iter().flatten().map(String::as_str);
        given.find(|url| !url.is_empty())
    }

    /// The registry's address.
    pub fn url(&self) -> &str {
        self.named().unwrap_or(DEFAULT_REGISTRY_URL)
    }
}

/// How results are printed.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Where the wallet is.
#[derive(Args, Clone, Debug)]
pub struct WalletArgs {
    /// Directory of the keystore files [default: ~/.axolotl/wallet].
    #[arg(long, env = "AXOLOTL_WALLET", value_name = "DIR")]
    pub wallet: Option<PathBuf>,
}

/// Whether `url` is one that this program can ask.
///
/// # Errors
/// A [`Usage`] fault that names the option.
pub fn check_url(option: &str, url: &str) -> Result<(), Usage> {
    let rest = url.strip_prefix("http://");
    if rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':'])) {
        return Ok(());
    }
    let why = if url.starts_with("https://") {
        "this program speaks no TLS; use the address inside of the network, or a tunnel".to_owned()
    } else {
        let example = match option {
            "--registry" => DEFAULT_REGISTRY_URL,
            _ => DEFAULT_RPC_URL,
        };
        format!("expected an address such as {example}")
    };
    Err(Usage(format!("{option} {url:?}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_asked_are_refused_with_the_reason() {
        for good in ["http://a", "http://127.0.0.1:8545/", "http://[::1]:1"] {
            assert!(check_url("--rpc", good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("https://a", "no TLS"),
            ("127.0.0.1:8545", "expected"),
            ("http://", "expected"),
            ("http://:8545", "expected"),
            ("", "expected"),
        ] {
            let text = check_url("--rpc", bad).unwrap_err().to_string();
            assert!(text.contains(why) && text.contains("--rpc"), "{text}");
        }
    }

    #[test]
    fn the_tools_own_variable_comes_before_that_of_the_nodes() {
        let args = |registry: Option<&str>, registry_url: Option<&str>| RegistryArgs {
            registry: registry.map(str::to_owned),
            registry_url: registry_url.map(str::to_owned),
        };
        assert_eq!(args(Some("http://a"), Some("http://b")).url(), "http://a");
        assert_eq!(args(Some(""), Some("http://b")).url(), "http://b");
        assert_eq!(args(None, None).url(), DEFAULT_REGISTRY_URL);
        assert_eq!(args(None, None).named(), None);
    }
}
