//! Which of Ethereum's rules a block follows: the fork schedule of a genesis.
//!
//! Each chain follows the rules of Prague from block 0 on, and those of Osaka from the first block whose
//! time stamp is not below `config.osakaTime`. Without `osakaTime` it stays with Prague for ever, as the
//! chains of earlier releases do.
//!
//! Earlier releases took a genesis with `osakaTime` and ignored it, so the field alone would let two
//! releases disagree about the same chain. It is valid only together with `axolotl.maxLogBytes`, which
//! earlier releases refuse as unknown; that also keeps a chain which ran at the rules of Prague in spite
//! of its genesis from being read by others.
//!
//! The older forks of geth's `config` are checked where `maxLogBytes` shows that the document was made for
//! this release or a later one: a fork that the document puts after block 0 would be ignored otherwise. A
//! fork that this release does not know is refused in every document.

use axolotl_common::limits::{DEFAULT_MAX_LOG_BYTES, TRANSACTION_GAS_CAP};
use serde_json::Value;

/// Fork blocks of geth's `config` that lie before Prague.
const OLDER_BLOCKS: [&str; 13] = [
    "homesteadBlock",
    "eip150Block",
    "eip155Block",
    "eip158Block",
    "byzantiumBlock",
    "constantinopleBlock",
    "petersburgBlock",
    "istanbulBlock",
    "muirGlacierBlock",
    "berlinBlock",
    "londonBlock",
    "arrowGlacierBlock",
    "grayGlacierBlock",
];
/// Fork times of geth's `config` up to Prague, in their order.
const OLDER_TIMES: [&str; 3] = ["shanghaiTime", "cancunTime", "pragueTime"];
/// Fields that look like forks and change no rule here.
const NO_FORKS: [&str; 2] = ["daoForkBlock", "mergeNetsplitBlock"];
/// The fork that comes next here.
const OSAKA_TIME: &str = "osakaTime";
/// Switches of geth for a state tree that this ledger does not have.
const OTHER_TREES: [&str; 2] = ["enableVerkleAtGenesis", "enableUBTAtGenesis"];

/// The rules of Ethereum that a block follows, older ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rules {
    /// Those of every chain from block 0 on.
    Prague,
    /// EIP-7823 and 7883 (MODEXP), 7825 (gas cap of a transaction), 7939 (CLZ), 7951 (P-256).
    Osaka,
}

impl Rules {
    /// Most gas that one transaction may ask for, if there is such a limit (EIP-7825).
    pub fn transaction_gas_cap(self) -> Option<u64> {
        (self >= Self::Osaka).then_some(TRANSACTION_GAS_CAP)
    }

    /// Name of the fork.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prague => "Prague",
            Self::Osaka => "Osaka",
        }
    }
}

/// What is wrong with a field of `config`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForkFault {
    /// Not a number where geth has one.
    #[error("expected a whole number, as geth writes it")]
    NotANumber,
    /// A fork of which this release knows nothing.
    #[error(
        "this release does not know the fork, and would ignore it; take it out, or use a release that knows it"
    )]
    Unknown,
    /// A fork that every chain has from block 0 on.
    #[error(
        "{found} is after block 0 (limit {limit}), but every chain follows the rules up to Prague from block 0 on; \
         write 0"
    )]
    AfterGenesis {
        /// What the document says.
        found: u64,
        /// Most that it may say: 0 for a block, the time of block 0 for a time.
        limit: u64,
    },
    /// A fork before the one that it builds on.
    #[error("{found} is before {earlier} ({limit}); forks come in their order")]
    Order {
        /// What the document says.
        found: u64,
        /// The earlier fork's field.
        earlier: &'static str,
        /// Its time.
        limit: u64,
    },
    /// Osaka in a document that an earlier release would take as well.
    #[error(
        "needs `axolotl.maxLogBytes` beside it (such as {}): releases before Osaka ignore this field and \
         follow other rules, and only that one makes them refuse the document",
        DEFAULT_MAX_LOG_BYTES
    )]
    NeedsLogLimit,
}

/// Reads the fork schedule: the time of Osaka, and the faults with the names of their fields in
/// `config`.
pub(crate) fn read_schedule(
    config: &Value,
    genesis_time: u64,
    has_log_limit: bool,
) -> (Option<u64>, Vec<(String, ForkFault)>) {
    let mut faults = Vec::new();
    let Some(config) = config.as_object() else {
        return (None, faults);
    };
    let mut osaka = None;
    let mut prague = None;
    for (name, value) in config.iter().filter(|(_, value)| !value.is_null()) {
        let known = name.as_str();
        let lower = name.to_lowercase();
        let is_block = OLDER_BLOCKS.contains(&known);
        let is_time = OLDER_TIMES.contains(&known);
        let mut add = |fault| faults.push((name.clone(), fault));
        if is_block || is_time {
            if !has_log_limit {
                continue;
            }
            let limit = if is_time { genesis_time } else { 0 };
            match value.as_u64() {
                None => add(ForkFault::NotANumber),
                Some(found) if found > limit => add(ForkFault::AfterGenesis { found, limit }),
                Some(found) if known == "pragueTime" => prague = Some(found),
                Some(_) => {}
            }
        } else if known == OSAKA_TIME {
            match value.as_u64() {
                None => add(ForkFault::NotANumber),
                Some(_) if !has_log_limit => add(ForkFault::NeedsLogLimit),
                found => osaka = found,
            }
        } else if OTHER_TREES.contains(&known) {
            if value.as_bool() != Some(false) {
                add(ForkFault::Unknown);
            }
        } else if !NO_FORKS.contains(&known)
            && (lower.ends_with("time") || lower.ends_with("block"))
        {
            // Upper and lower case do not matter to geth, so "osakatime" is not just an unknown field.
            add(ForkFault::Unknown);
        }
    }
    if let (Some(found), Some(limit)) = (osaka, prague)
        && found < limit
    {
        let fault = ForkFault::Order {
            found,
            earlier: "config.pragueTime",
            limit,
        };
        faults.push((OSAKA_TIME.to_owned(), fault));
    }
    (osaka, faults)
}
