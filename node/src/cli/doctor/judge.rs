//! What `doctor` makes of what it saw.

use std::collections::BTreeSet;

use axolotl_common::{PublicKey, registry_api::NodeState};
use serde::Serialize;

use super::observe::{DiskFacts, Facts, Listener, PortFacts, RegistryFacts};
use crate::cli::status::too_few;

/// Less free disk than this stops a node soon.
const DISK_FAIL_BYTES: u64 = 100 << 20;
/// Less free disk than this is worth a look.
const DISK_WARN_BYTES: u64 = 1 << 30;
/// The registry refuses signatures that are this far off.
const CLOCK_FAIL_MS: i64 = 30_000;
/// Clocks that are looked after differ by less.
const CLOCK_WARN_MS: i64 = 2_000;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth a look; the exit code stays 0.
    Warn,
    /// Has to be put right; the exit code is 1.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How well it is.
    pub verdict: Verdict,
    /// What was seen.
    pub found: String,
    /// What to do.
    pub advice: Option<String>,
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    finding(check, Verdict::Ok, found, None)
}

fn warn(check: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    finding(check, Verdict::Warn, found, Some(advice))
}

fn fail(check: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    finding(check, Verdict::Fail, found, Some(advice))
}

fn finding(
    check: &'static str,
    verdict: Verdict,
    found: impl Into<String>,
    advice: Option<&str>,
) -> Finding {
    Finding {
        check,
        verdict,
        found: found.into(),
        advice: advice.map(str::to_owned),
    }
}

/// One finding for each check, always in this order.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let registry = facts.registry.as_ref();
    vec![
        registry.map_or_else(|| ok("registry", "none is used"), judge_registry),
        registry.map_or_else(|| ok("dns", "no name is needed"), judge_dns),
        judge_ports(&facts.ports),
        judge_disk(&facts.disk),
        registry.map_or_else(|| ok("clock", "no registry to compare with"), judge_clock),
        judge_peers(facts),
        judge_vote(facts),
        judge_genesis(facts),
        judge_version(facts),
    ]
}

fn judge_registry(registry: &RegistryFacts) -> Finding {
    let url = &registry.url;
    let status = match &registry.status {
        Ok(status) => status,
        Err(why) => {
            // The first line says what happened; what to do is said here, for a node's machine.
            let why = why.lines().next().unwrap_or_default();
            let advice = "Start the registry, or put its address into REGISTRY_URL; a node that lives \
                          without one is looked at with --without-registry";
            return fail("registry", why, advice);
        }
    };
    let counts = format!(
        "{url} answers: {} of {} nodes healthy",
        status.healthy_nodes, status.total_nodes
    );
    if let Some(forming) = &status.forming {
        let found = format!("{counts}; the chain is forming: {forming}");
        return warn(
            "registry",
            found,
            "Wait for the nodes that are missing, or start them",
        );
    }
    if !status.consensus_possible {
        let found = format!("{counts}, {} (quorum {})", too_few(status), status.quorum);
        return fail(
            "registry",
            found,
            "See `axolotl status`; start nodes that are down",
        );
    }
    if !status.warnings.is_empty() {
        let found = format!("{counts}; it warns: {}", status.warnings.join("; "));
        return warn("registry", found, "See `axolotl status`");
    }
    ok("registry", counts)
}

fn judge_dns(registry: &RegistryFacts) -> Finding {
    let host = registry.url.trim_start_matches("http://");
    match &registry.resolved {
        Err(why) => {
            let found = format!("the name in {host} is not known: {why}");
            let advice = "Is this machine (or container) in the registry's network? In Docker: network \
                          axolotl_blockchain";
            fail("dns", found, advice)
        }
        Ok(_) if !registry.unresolved_nodes.is_empty() => {
            let found = format!(
                "this machine does not know the names {}",
                registry.unresolved_nodes.join(", ")
            );
            let advice =
                "Normal outside of the nodes' own network; inside, those containers are gone";
            warn("dns", found, advice)
        }
        Ok(_) if !registry.is_name => ok("dns", "the registry is named by its address"),
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            ok("dns", format!("{host} is {}", addresses.join(", ")))
        }
    }
}

fn judge_ports(ports: &PortFacts) -> Finding {
    let named = [
        ("HTTP", "HTTP_PORT", &ports.http),
        ("JSON-RPC", "RPC_PORT", &ports.rpc),
        ("libp2p", "PORT", &ports.p2p),
    ];
    for (name, variable, (port, listener)) in named {
        if let Listener::Other(why) = listener {
            let found = format!("port {port} ({name}) belongs to another program: {why}");
            let advice = format!("Stop that program, or set {variable} to the node's own port");
            return fail("ports", found, &advice);
        }
    }
    let list = |wanted: &Listener| {
        let of = named
            .iter()
            .filter(|(_, _, (_, listener))| listener == wanted);
        let of: Vec<String> = of
            .map(|(name, _, (port, _))| format!("{port} ({name})"))
            .collect();
        of.join(", ")
    };
    let silent = list(&Listener::Nobody);
    if silent.is_empty() {
        return ok(
            "ports",
            format!("the node listens on {}", list(&Listener::Node)),
        );
    }
    let found = format!("nothing listens on {silent}");
    if ports.rpc.1 == Listener::Node {
        let advice =
            "Normal for a container that publishes JSON-RPC only; else set HTTP_PORT and PORT";
        return warn("ports", found, advice);
    }
    let advice = "Start the node, or set HTTP_PORT, RPC_PORT and PORT to its ports";
    fail("ports", found, advice)
}

fn judge_disk(disk: &DiskFacts) -> Finding {
    let path = disk.path.display();
    let free = match &disk.free_bytes {
        Ok(free) => *free,
        Err(why) => {
            let advice = "Set DATA_DIR to the node's directory, or start the node: it makes one";
            return warn("disk", format!("{path} cannot be looked at: {why}"), advice);
        }
    };
    let found = format!("{} free in {path}", megabytes(free));
    if disk.is_data_dir && !disk.writable {
        let found = format!("{path} is not writable for this user");
        return fail(
            "disk",
            found,
            "Run as the node's user, or give it the directory (chown)",
        );
    }
    if free < DISK_FAIL_BYTES {
        return fail(
            "disk",
            found,
            "Free some space: a node stops when its disk is full",
        );
    }
    if free < DISK_WARN_BYTES {
        return warn("disk", found, "Free some space soon");
    }
    ok("disk", found)
}

fn megabytes(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

fn judge_clock(registry: &RegistryFacts) -> Finding {
    let Some(ahead) = registry.ahead_ms else {
        let found = "not known: the registry told no time";
        return warn("clock", found, "See the line of the registry");
    };
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let found = format!(
        "{:.1} s {way} the registry's",
        ahead.unsigned_abs() as f64 / 1_000.0
    );
    let advice = "Set both clocks by NTP: the registry refuses calls that are 30 s off";
    match ahead.abs() {
        CLOCK_FAIL_MS.. => fail("clock", found, advice),
        CLOCK_WARN_MS.. => warn("clock", found, advice),
        _ => ok("clock", "level with the registry's"),
    }
}

fn judge_peers(facts: &Facts) -> Finding {
    let (own, members) = match &facts.node {
        Ok(answer) => answer,
        Err(_) => return unknown("peers"),
    };
    let n = members.keys.len();
    let reaches = |key: &PublicKey| *key == own.public_key || own.reachable.contains(key);
    let reached = members.keys.iter().filter(|key| reaches(key)).count();
    let found = format!(
        "{} connected; {reached} of {n} validators answer, quorum {}",
        own.peers, members.quorum
    );
    if reached < members.quorum {
        let advice = "No block can be finalised from here: look whether the others run, and whether \
                      their libp2p ports can be reached (firewall, ADVERTISE_ADDR, BOOTSTRAP_PEERS)";
        return fail("peers", found, advice);
    }
    if own.syncing {
        let found = format!(
            "{found}; the node is fetching blocks (height {})",
            own.height
        );
        return warn("peers", found, "Wait until it is level");
    }
    if reached < n {
        return warn("peers", found, "See `axolotl nodes` for who is missing");
    }
    ok("peers", found)
}

/// Whether the node votes, where it should; nodes that must not, here or elsewhere, are told.
fn judge_vote(facts: &Facts) -> Finding {
    let status = facts.registry.as_ref().map(|registry| &registry.status);
    let own = facts.node.as_ref().ok().map(|(own, _)| own);
    if let Some(why) = own.and_then(|own| own.unfit.as_ref()) {
        let found = format!("this node is unfit, it follows and never votes: {why}");
        let advice = match status {
            Some(_) => {
                "Stop it, remove its data directory and start it again: it joins as a new node"
            }
            None => {
                "Stop it and keep its directory. Where a registry names validators, remove the \
                 directory and let the node join as a new one"
            }
        };
        return fail("vote", found, advice);
    }
    if let Some(Ok(status)) = status {
        let unfit = status
            .nodes
            .values()
            .filter(|node| node.state == NodeState::Unfit)
            .map(|node| match &node.detail {
                Some(why) => format!("{} ({why})", node.id),
                None => node.id.to_string(),
            });
        let unfit: Vec<String> = unfit.collect();
        if !unfit.is_empty() {
            let found = format!("unfit, and never voting again: {}", unfit.join(", "));
            let advice = "On their machines: stop the node, remove its data directory, start it";
            return warn("vote", found, advice);
        }
        let silent = status.nodes.values().filter_map(|node| {
            let symptom = node.symptom.as_ref()?;
            Some(format!(
                "{} is {} ({})",
                node.id, symptom.code, symptom.text
            ))
        });
        let silent: Vec<String> = silent.collect();
        if !silent.is_empty() {
            let advice = "A node repairs its connections by itself; if this stays, look at the \
                 network between it and those named, and at its log";
            return warn("vote", silent.join("; "), advice);
        }
        // Single blocks that came too late are what load does; an invalid one is never an accident.
        let lying = status.nodes.values().filter_map(|node| {
            let faults = node.proposal_faults.as_ref()?;
            (faults.invalid > 0).then(|| format!("{} {faults}", node.id))
        });
        let lying: Vec<String> = lying.collect();
        if !lying.is_empty() {
            let advice = "Compare the versions of the programs on these machines and look at their logs; \
                 replace the node whose blocks several others report";
            return warn("vote", lying.join("; "), advice);
        }
    }
    match own {
        None => unknown("vote"),
        Some(own) if own.voting => ok("vote", format!("this node votes in epoch {}", own.epoch)),
        Some(own) if own.is_validator => warn(
            "vote",
            "this node is a validator and does not vote yet",
            "Wait some seconds: it asks the others which of its votes they hold; then see its log",
        ),
        Some(own) => ok(
            "vote",
            format!(
                "this node is no validator of epoch {}, it follows",
                own.epoch
            ),
        ),
    }
}

fn unknown(check: &'static str) -> Finding {
    warn(
        check,
        "not known: no node answers",
        "See the line of the ports",
    )
}

fn judge_genesis(facts: &Facts) -> Finding {
    let other = "This data directory belongs to another chain: use another one, or wipe it";
    let mut named = Vec::new();
    match &facts.node {
        Ok((own, _)) => named.extend(own.genesis_hash.map(|hash| ("the node", hash))),
        Err(_) if facts.stored_genesis.is_none() => return unknown("genesis"),
        Err(_) => {}
    }
    match &facts.stored_genesis {
        Some(Ok(hash)) => named.push(("the data directory", *hash)),
        Some(Err(why)) => {
            return fail(
                "genesis",
                why.clone(),
                "Restore the file, or wipe the directory",
            );
        }
        None => {}
    }
    if let Some(Ok(status)) = facts.registry.as_ref().map(|registry| &registry.status) {
        named.extend(status.genesis_hash.map(|hash| ("the registry", hash)));
    }
    let Some(((first, hash), rest)) = named.split_first() else {
        return warn("genesis", "none yet", "Wait until the chain is formed");
    };
    if let Some((who, differs)) = rest.iter().find(|(_, other)| other != hash) {
        return fail(
            "genesis",
            format!("{first} has {hash}, {who} has {differs}"),
            other,
        );
    }
    let who: Vec<&str> = named.iter().map(|(who, _)| *who).collect();
    ok("genesis", format!("{hash} ({})", who.join(", ")))
}

fn judge_version(facts: &Facts) -> Finding {
    let mine = env!("CARGO_PKG_VERSION");
    let mut versions = BTreeSet::from([mine.to_owned()]);
    let mut seen = Vec::new();
    if let Ok((own, _)) = &facts.node {
        versions.insert(own.version.clone());
        seen.push(format!("the node {}", own.version));
    }
    if let Some(Ok(status)) = facts.registry.as_ref().map(|registry| &registry.status) {
        for node in status.nodes.values().filter(|node| node.is_healthy) {
            versions.insert(node.version.clone());
            if node.version != mine {
                seen.push(format!("{} {}", node.id, node.version));
            }
        }
    }
    if versions.len() == 1 {
        return ok("version", format!("{mine} everywhere"));
    }
    let found = format!("this program is {mine}, {}", seen.join(", "));
    warn(
        "version",
        found,
        "Bring all to the newest, one node after the other",
    )
}

#[cfg(test)]
mod tests;
