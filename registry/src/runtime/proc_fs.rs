//! What Linux tells of processes: `/proc/<pid>/stat` and `/proc/<pid>/environ` (proc(5)).

use std::{fs, io};

/// Names the store, node and start that a process belongs to, in its environment.
pub(super) const MARKER: &str = "AXOLOTL_INSTANCE";

/// The few fields of `/proc/<pid>/stat` that are of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// `Z` for a zombie, `X` for dead.
    pub(super) state: char,
    /// Process group.
    pub(super) group: u32,
    /// Start time in clock ticks since boot: with the pid it names one process for ever.
    pub(super) start_time: u64,
}

impl Stat {
    /// Whether the process still runs.
    pub(super) fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the name in parentheses, which may hold anything, parentheses included.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        group: fields.get(2)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

/// The process with this pid, if there is one.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The value of [`MARKER`]: `<store>/<node>/<generation>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) store: String,
    pub(super) node: axolotl_common::NodeId,
    pub(super) generation: u64,
}

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.store, self.node, self.generation)
    }
}

fn parse_marker(environ: &[u8]) -> Option<Marker> {
    let value = environ.split(|b| *b == 0).find_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        entry.strip_prefix(MARKER)?.strip_prefix('=')
    })?;
    let mut parts = value.split('/');
    let (store, node, generation, None) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    Some(Marker {
        store: store.to_owned(),
        node: node.parse().ok()?,
        generation: generation.parse().ok()?,
    })
}

/// Every running process with a marker of this store that leads its process group (what it starts
/// itself inherits the marker, but not the lead).
///
/// # Errors
/// When `/proc` cannot be listed.
pub(super) fn find(store: &str) -> io::Result<Vec<(u32, Stat, Marker)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Unreadable: another user's, or gone meanwhile.
        let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        let Some(marker) = parse_marker(&environ).filter(|marker| marker.store == store) else {
            continue;
        };
        let leads = |stat: &Stat| stat.runs() && stat.group == pid;
        if let Some(stat) = stat(pid).filter(leads) {
            found.push((pid, stat, marker));
        }
    }
    found.sort_by_key(|(pid, ..)| *pid);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "42 (a) b ) S 1 77 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.state, stat.group, stat.start_time),
            ('S', 77, 987_654)
        );
        assert!(stat.runs());
        assert!(super::stat(std::process::id()).unwrap().runs());
        assert_eq!(super::stat(u32::MAX), None);
    }

    #[test]
    fn markers_read_what_they_print() {
        let marker = Marker {
            store: "ab12".into(),
            node: "node3".parse().unwrap(),
            generation: 7,
        };
        let environ = format!("PATH=/bin\0{MARKER}={marker}\0X=1\0");
        assert_eq!(parse_marker(environ.as_bytes()), Some(marker));
        for bad in ["", "AXOLOTL_INSTANCE=a/b", "AXOLOTL_INSTANCE=a/node1/x/y\0"] {
            assert_eq!(parse_marker(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
