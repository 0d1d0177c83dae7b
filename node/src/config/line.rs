//! The command line and the environment as a whole: names that mean nothing must not pass silently.

use std::ffi::{OsStr, OsString};

use axolotl_common::variables;
use clap::{
    Args, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::NodeArgs;

/// A command line, and what is wrong with its flags.
#[derive(Debug)]
pub struct Line<C> {
    /// The command, read without the flags that do not exist.
    pub command: C,
    /// Flags of `axolotl node` that do not exist, one line each.
    pub unknown_flags: Vec<String>,
}

impl<C: FromArgMatches> Line<C> {
    /// Reads the command line of this process. Ends the process with clap's own message (exit code
    /// 2) where there is nothing to go on with; flags of `axolotl node` that do not exist are
    /// collected, so that they are reported together with wrong values.
    pub fn read(command: &clap::Command) -> Self {
        let line = std::env::args_os().collect();
        Self::from(command, line).unwrap_or_else(|error| error.exit())
    }

    fn from(tool: &clap::Command, mut line: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut unknown_flags = Vec::new();
        loop {
            let read = tool.clone().try_get_matches_from(&line);
            let error = match read.and_then(|matches| C::from_arg_matches(&matches)) {
                Ok(command) => {
                    return Ok(Self {
                        command,
                        unknown_flags,
                    });
                }
                Err(error) => error,
            };
            let flag = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(flag)) => flag.clone(),
                _ => return Err(error),
            };
            let is_node = line.get(1).is_some_and(|command| command == "node");
            let place = line.iter().position(|word| is_flag(word, &flag));
            let (ErrorKind::UnknownArgument, true, Some(place)) = (error.kind(), is_node, place)
            else {
                return Err(error);
            };
            unknown_flags.push(match error.get(ContextKind::SuggestedArg) {
                Some(ContextValue::String(similar)) => {
                    format!("{flag}: there is no such flag; did you mean {similar}?")
                }
                _ => format!("{flag}: there is no such flag; `axolotl node --help` lists all"),
            });
            let takes_next = !line[place].to_string_lossy().contains('=');
            line.remove(place);
            // What follows a flag that does not exist was meant as its value.
            let next = line
                .get(place)
                .map(|word| word.to_string_lossy().into_owned());
            if takes_next && next.is_some_and(|word| !word.starts_with('-')) {
                line.remove(place);
            }
        }
    }
}

/// Whether a word of the command line is this flag, with or without a value.
fn is_flag(word: &OsStr, flag: &str) -> bool {
    let word = word.to_string_lossy();
    word == flag || word.split_once('=').is_some_and(|(name, _)| name == flag)
}

/// Variables of this process's environment that look as if they were meant for the node and are
/// not, one line each.
pub fn unknown_variables() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let command = NodeArgs::augment_args(clap::Command::new("node"));
    let is_setting = |name: &str| {
        let mut all = command.get_arguments().filter_map(clap::Arg::get_env);
        all.any(|variable| variable == name)
    };
    variables::unread(names.collect(), "node", "axolotl node --help", is_setting)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    enum Tool {
        Node(Box<NodeArgs>),
        Health,
    }

    fn read(line: &[&str]) -> Result<Line<Tool>, clap::Error> {
        let line = std::iter::once("axolotl").chain(line.iter().copied());
        Line::from(&Tool::command(), line.map(OsString::from).collect())
    }

    #[test]
    fn flags_that_do_not_exist_are_all_reported() {
        let line = read(&[
            "node",
            "--prot",
            "50051",
            "--role",
            "king",
            "--rpcport=1",
            "--nothing-like-it",
        ]);
        let Line {
            command,
            unknown_flags,
        } = line.unwrap();
        assert_eq!(unknown_flags.len(), 3, "{unknown_flags:?}");
        assert!(unknown_flags[0].starts_with("--prot:") && unknown_flags[0].contains("--port"));
        assert!(
            unknown_flags[1].starts_with("--rpcport:") && unknown_flags[1].contains("--rpc-port")
        );
        assert!(unknown_flags[2].starts_with("--nothing-like-it:"));
        let Tool::Node(node) = command else {
            panic!("{command:?}");
        };
        let faults = node.into_config().unwrap_err();
        assert!(faults.to_string().contains("ROLE=king"), "{faults}");
    }

    #[test]
    fn what_cannot_be_read_at_all_is_claps_business() {
        for line in [
            &["nodes"][..],
            &["health", "--prot"],
            &["node", "--port"],
            &["node", "--port", "1", "--port", "2"],
            &["node", "--help"],
        ] {
            assert!(read(line).is_err(), "{line:?}");
        }
        assert!(matches!(read(&["health"]).unwrap().command, Tool::Health));
        let stray = read(&["node", "node1"]).unwrap();
        assert_eq!(stray.unknown_flags.len(), 1, "{:?}", stray.unknown_flags);
    }
}
