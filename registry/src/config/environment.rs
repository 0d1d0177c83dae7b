//! The environment as a whole: names that mean nothing must not pass silently.

use axolotl_common::variables;
use clap::Args;

use super::ServeArgs;

/// Variables of this process's environment that look as if they were meant for the registry and are
/// not, one line each.
pub fn unknown_variables() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let is_setting = |name: &str| {
        let mut all = command.get_arguments().filter_map(clap::Arg::get_env);
        all.any(|variable| variable == name)
    };
    let help = "axolotl-registry serve --help";
    variables::unread(names.collect(), "registry", help, is_setting)
}
