//! Tells from the engine's events how a container ended. Its state does not say: it shows 137 for
//! all that was killed.
//!
//! | events | means |
//! |---|---|
//! | `die` alone, exit code 0 | it ended in order by itself: [`Exit::Clean`] |
//! | `die` alone | crash |
//! | `kill` (a signal that ends a node), `die` | `docker kill` by somebody: [`Exit::Clean`] |
//! | `kill` 15, \[`kill` 9\], `die`, `stop` | `docker stop` by somebody: [`Exit::Clean`] |
//! | the same, `start` | `docker restart` |
//! | `destroy` | removed |

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::runtime::Exit;

/// Containers of which something is remembered; the first by id is forgotten for another.
const MAX_REMEMBERED: usize = 4_096;
/// A signal explains an end for this long: `docker stop` waits 10 s.
const KILL_COUNTS: Duration = Duration::from_secs(30);
/// Signals that end a node: interrupt, quit, abort, kill, user's, terminate.
const ENDING: [&str; 7] = ["2", "3", "6", "9", "10", "12", "15"];

/// Events that are asked for.
pub(super) const ACTIONS: [&str; 6] = ["start", "kill", "oom", "die", "stop", "destroy"];

/// What an event means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Started,
    Ended(Exit),
    Removed,
}

/// What is remembered of containers, from events in their order.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// When a signal that ends a node was sent, in nanoseconds since 1970.
    killed: BTreeMap<String, i64>,
    out_of_memory: BTreeSet<String>,
    ends: BTreeMap<String, Exit>,
}

impl Lives {
    /// How a container that does not run ended, if that was seen.
    pub(super) fn end(&self, id: &str) -> Option<&Exit> {
        self.ends.get(id)
    }

    /// Takes in an event of a container.
    pub(super) fn take(
        &mut self,
        id: &str,
        action: &str,
        attributes: &HashMap<String, String>,
        at: i64,
    ) -> Option<Told> {
        let attribute = |name: &str| attributes.get(name).map(String::as_str);
        match action {
            "start" => {
                self.forget(id);
                Some(Told::Started)
            }
            "kill" => {
                if attribute("signal").is_none_or(|signal| ENDING.contains(&signal)) {
                    bound(&mut self.killed, id);
                    self.killed.insert(id.to_owned(), at);
                }
                None
            }
            "oom" => {
                let known = self.out_of_memory.contains(id);
                if !known && self.out_of_memory.len() >= MAX_REMEMBERED {
                    self.out_of_memory.pop_first();
                }
                self.out_of_memory.insert(id.to_owned());
                None
            }
            "die" => {
                let recent = KILL_COUNTS.as_nanos() as i64;
                let killed = self.killed.remove(id);
                let deliberate = killed.is_some_and(|then| at.saturating_sub(then) <= recent);
                let exit = match attribute("exitCode") {
                    Some("0") => Exit::Clean,
                    _ if deliberate => Exit::Clean,
                    _ if self.out_of_memory.remove(id) => {
                        Exit::Crash("out of memory: above its container's limit".to_owned())
                    }
                    code => Exit::Crash(describe(code)),
                };
                bound(&mut self.ends, id);
                self.ends.insert(id.to_owned(), exit.clone());
                Some(Told::Ended(exit))
            }
            "destroy" => {
                self.forget(id);
                Some(Told::Removed)
            }
            _ => None,
        }
    }

    fn forget(&mut self, id: &str) {
        self.killed.remove(id);
        self.out_of_memory.remove(id);
        self.ends.remove(id);
    }
}

/// Makes room for `id`, unless it has a place already.
fn bound<T>(map: &mut BTreeMap<String, T>, id: &str) {
    if !map.contains_key(id) && map.len() >= MAX_REMEMBERED {
        map.pop_first();
    }
}

fn describe(code: Option<&str>) -> String {
    match code.and_then(|code| code.parse::<u8>().ok()) {
        Some(code @ 129..=192) => format!("killed by signal {}", code - 128),
        Some(code) => format!("exit code {code}"),
        None => "how it ended is unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// What the events of one container tell; each is (seconds, action, signal or exit code).
    fn tell(events: &[(i64, &str, &str)]) -> Vec<Told> {
        let mut lives = Lives::default();
        let tell = |(at, action, value): &(i64, &str, &str)| {
            let name = if *action == "kill" {
                "signal"
            } else {
                "exitCode"
            };
            let attributes = HashMap::from([(name.to_owned(), (*value).to_owned())]);
            lives.take("c", action, &attributes, at * SECOND)
        };
        events.iter().filter_map(tell).collect()
    }

    fn crash(why: &str) -> Told {
        Told::Ended(Exit::Crash(why.to_owned()))
    }

    #[test]
    fn crash_stop_and_kill_are_told_apart() {
        use Told::{Ended, Removed, Started};
        let clean = Ended(Exit::Clean);
        let cases = [
            (vec![(1, "die", "137")], vec![crash("killed by signal 9")]),
            (vec![(1, "die", "1")], vec![crash("exit code 1")]),
            (vec![(1, "die", "0")], vec![clean.clone()]),
            (
                vec![(1, "kill", "9"), (1, "die", "137")],
                vec![clean.clone()],
            ),
            (
                vec![(1, "kill", "15"), (1, "die", "0"), (1, "stop", "")],
                vec![clean.clone()],
            ),
            (
                vec![
                    (1, "kill", "15"),
                    (11, "kill", "9"),
                    (11, "die", "137"),
                    (11, "stop", ""),
                    (12, "start", ""),
                ],
                vec![clean.clone(), Started],
            ),
            // A signal that a node does not end by explains nothing.
            (
                vec![(1, "kill", "1"), (2, "die", "139")],
                vec![crash("killed by signal 11")],
            ),
            // Nor does one of long ago, or of an earlier life.
            (
                vec![(1, "kill", "15"), (60, "die", "1")],
                vec![crash("exit code 1")],
            ),
            (
                vec![
                    (1, "kill", "9"),
                    (1, "die", "137"),
                    (2, "start", ""),
                    (3, "die", "137"),
                ],
                vec![clean.clone(), Started, crash("killed by signal 9")],
            ),
            (
                vec![(1, "oom", ""), (1, "die", "137")],
                vec![crash("out of memory: above its container's limit")],
            ),
            (
                vec![(1, "kill", "9"), (1, "die", "137"), (1, "destroy", "")],
                vec![clean, Removed],
            ),
            (vec![(1, "pause", ""), (2, "unpause", "")], vec![]),
        ];
        for (events, told) in cases {
            assert_eq!(tell(&events), told, "{events:?}");
        }
    }

    #[test]
    fn an_end_is_remembered_until_the_next_start() {
        let mut lives = Lives::default();
        let none = HashMap::new();
        let code = HashMap::from([("exitCode".to_owned(), "3".to_owned())]);
        lives.take("c", "die", &code, 0);
        assert_eq!(lives.end("c"), Some(&Exit::Crash("exit code 3".to_owned())));
        lives.take("c", "start", &none, 1);
        assert_eq!(lives.end("c"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut lives = Lives::default();
        let none = HashMap::new();
        for i in 0..2 * MAX_REMEMBERED {
            for action in ["kill", "oom", "die", "kill", "oom"] {
                lives.take(&format!("{i}"), action, &none, 0);
            }
        }
        assert_eq!(lives.killed.len(), MAX_REMEMBERED);
        assert_eq!(lives.out_of_memory.len(), MAX_REMEMBERED);
        assert_eq!(lives.ends.len(), MAX_REMEMBERED);
    }
}
