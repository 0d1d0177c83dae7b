//! Variables of the environment that look as if they were meant for a program of Axolotl, and are not
//! read by it. The environment itself is read by the programs.

/// What every variable of Axolotl's own scripts and tools begins with. No setting of a node or a
/// registry does.
const PREFIX: &str = "AXOLOTL_";
/// Variables with that prefix that the tool, the scripts and the tests of this repository read.
const OF_SCRIPTS: [&str; 19] = [
    "AXOLOTL_ADMIN_TOKEN_FILE",
    "AXOLOTL_BIN",
    "AXOLOTL_CHAIN_ID",
    "AXOLOTL_HOME",
    "AXOLOTL_INSTANCE",
    "AXOLOTL_MODEL_LARGE",
    "AXOLOTL_PREFIX",
    "AXOLOTL_REGISTRY",
    "AXOLOTL_REGISTRY_URL",
    "AXOLOTL_RPC",
    "AXOLOTL_RPC_URLS",
    "AXOLOTL_SEED",
    "AXOLOTL_SIM_SEED",
    "AXOLOTL_SIM_SEEDS",
    "AXOLOTL_SOAK",
    "AXOLOTL_TOOL",
    "AXOLOTL_UPDATE_DOCS",
    "AXOLOTL_WALLET",
    "AXOLOTL_WRITE_DOCS",
];

/// One line for each of `names` that nothing reads: worth a warning and no more, for Kubernetes and
/// Docker links put such variables (`AXOLOTL_SERVICE_HOST`) into containers by themselves.
///
/// `reader` is who does not read it, `help` the command that lists what it does read, and
/// `is_setting` says whether it reads a variable.
pub fn unread(
    mut names: Vec<String>,
    reader: &str,
    help: &str,
    is_setting: impl Fn(&str) -> bool,
) -> Vec<String> {
    names.sort();
    names
        .into_iter()
        .filter(|name| name.starts_with(PREFIX) && !OF_SCRIPTS.contains(&name.as_str()))
        .map(|name| match &name[PREFIX.len()..] {
            meant if is_setting(meant) => {
                format!("{name} is not read by the {reader}: the variable is called {meant}")
            }
            _ => format!("{name} is not read by the {reader}: `{help}` lists what is"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_nothing_reads_are_told() {
        let names = [
            "PATH",
            "AXOLOTL_TYPO",
            "AXOLOTL_SOAK",
            "AXOLOTL_RPC_PORT",
            "RPC_PORT",
        ];
        let names = names.map(str::to_owned).into();
        let found = unread(names, "node", "axolotl node --help", |name| {
            name == "RPC_PORT"
        });
        assert_eq!(
            found,
            [
                "AXOLOTL_RPC_PORT is not read by the node: the variable is called RPC_PORT",
                "AXOLOTL_TYPO is not read by the node: `axolotl node --help` lists what is",
            ]
        );
    }
}
