//! The settings: defaults, faults, order.

use super::*;

fn read(flags: &[&str]) -> Result<Config, Faults> {
    let words = ["axolotl-registry", "serve"].iter().chain(flags);
    let cli = Cli::try_parse_from(words).unwrap();
    let Command::Serve(args) = cli.command else {
        panic!("not serve");
    };
    Config::read(&args)
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = read(&[]).unwrap();
    let rules = &config.rules;
    assert_eq!(config.listen.port(), 9090);
    assert_eq!(
        (
            rules.min_nodes,
            rules.genesis_nodes,
            rules.target_nodes,
            rules.max_nodes
        ),
        (2, 4, 4, 10)
    );
    assert_eq!(config.heartbeat_interval, Duration::from_secs(5));
    assert_eq!(rules.unhealthy_after, Duration::from_secs(15));
    assert_eq!(config.scale_interval, Duration::from_secs(10));
    assert!(!rules.open_registration);
    assert!(
        config
            .admin_token_file
            .ends_with("registry-data/admin_token")
    );
    assert_eq!(
        read(&["--genesis-nodes", "7"]).unwrap().rules.target_nodes,
        7
    );
}

#[test]
fn all_faults_are_named_at_once() {
    let faults = read(&[
        "--port",
        "x",
        "--min-nodes",
        "9",
        "--unhealthy-after",
        "6s",
        "--runtime",
        "podman",
        "--registration",
        "maybe",
        "--recovery-trust",
        "blind",
        "--rpc-port-base",
        "80",
        "--node-env",
        "A=1,B",
        "--empty-block-interval",
        "6s",
        "--log-format",
        "xml",
        "--docker-host",
        "ssh://host",
        "--docker-network",
        "a b",
        "--docker-node-memory",
        "1m",
        "--port-start",
        "0",
        "--genesis-timeout",
        "soon",
    ])
    .unwrap_err();
    let text = faults.to_string();
    for name in [
        "PORT=",
        "MIN_NODES=9",
        "UNHEALTHY_AFTER",
        "RUNTIME",
        "REGISTRATION",
        "RECOVERY_TRUST",
        "RPC_PORT_BASE",
        "NODE_ENV",
        "EMPTY_BLOCK_INTERVAL",
        "LOG_FORMAT",
        "DOCKER_HOST",
        "DOCKER_NETWORK",
        "DOCKER_NODE_MEMORY",
        "PORT_START",
        "GENESIS_TIMEOUT",
    ] {
        assert!(text.contains(name), "{name} is missing in:\n{text}");
    }
    assert_eq!(faults.0.len(), 15, "{text}");
}

#[test]
fn numbers_must_be_in_order() {
    for flags in [
        ["--min-nodes", "0"],
        ["--min-nodes", "5"],
        ["--target-nodes", "3"],
        ["--target-nodes", "11"],
        ["--max-nodes", "3"],
        ["--max-nodes", "1000"],
    ] {
        assert!(read(&flags).is_err(), "{flags:?}");
    }
}
