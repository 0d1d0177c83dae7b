//! `axolotl wallet`: accounts of this user, each a keystore file under a name.

pub mod keystore;
pub mod store;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use alloy_primitives::B256;
use alloy_signer_local::{MnemonicBuilder, coins_bip39::English};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

pub use self::{
    keystore::{Keystore, KeystoreError},
    store::{Entry, Wallet, read_address},
};
use super::{
    accounts::Account,
    options::{OutputArgs, WalletArgs},
    output::{self, Colour, Usage},
    password::{Password, PasswordArgs, secret_text},
    table,
};

/// Highest number of an account of a mnemonic: the next bit marks hardened keys (BIP-32).
const MAX_INDEX: i64 = (1 << 31) - 1;

/// Arguments of `axolotl wallet`.
#[derive(Args, Clone, Debug)]
pub struct WalletCommandArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: WalletCommand,
}

/// What can be done with a wallet.
#[derive(Subcommand, Clone, Debug)]
pub enum WalletCommand {
    /// Make an account with a new random key.
    #[command(after_help = "Examples:
  axolotl wallet create alice                          # asks for a new password twice
  axolotl wallet create bob --password-file bob.pass   # for scripts")]
    Create(CreateArgs),
    /// List the accounts: names and addresses.
    #[command(after_help = "Examples:
  axolotl wallet list
  axolotl wallet list --json | jq -r '.accounts[].address'")]
    List(ListArgs),
    /// Take over an account from a key, a keystore file or a mnemonic.
    #[command(after_help = "Examples:
  axolotl wallet import alice --key-file key.hex       # 64 hexadecimal digits
  pass show key | axolotl wallet import alice --key-file -
  axolotl wallet import bob --keystore UTC--2026-01-01T00-00-00Z--3c44…
  axolotl wallet import carol --mnemonic-file words.txt --index 2")]
    Import(ImportArgs),
    /// Copy an account's keystore file, or print its secret key.
    #[command(after_help = "Examples:
  axolotl wallet export alice --out alice.json         # stays encrypted; geth and others open it
  axolotl wallet export alice --private-key            # prints the secret: whoever sees it owns the account")]
    Export(ExportArgs),
}

/// Arguments of `axolotl wallet create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Name of the new account.
    pub name: String,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `axolotl wallet list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `axolotl wallet import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// Name of the account in this wallet.
    pub name: String,
    #[command(flatten)]
    from: ImportFrom,
    /// Which account of the mnemonic: the last number of m/44'/60'/0'/0/N.
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(..=MAX_INDEX),
        requires = "mnemonic_file"
    )]
    index: u32,
    /// File whose first line is the password of the keystore that is imported; by default it is the
    /// same as the new one.
    #[arg(long, value_name = "FILE", requires = "keystore")]
    keystore_password_file: Option<PathBuf>,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Where an imported key comes from.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct ImportFrom {
    /// File with the secret key, hexadecimal; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Keystore file of version 3, as geth, eth-account and others write it.
    #[arg(long, value_name = "FILE")]
    keystore: Option<PathBuf>,
    /// File with an English BIP-39 mnemonic; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    mnemonic_file: Option<PathBuf>,
}

/// Arguments of `axolotl wallet export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// Name or address of the account.
    pub account: String,
    /// Print the secret key instead of the encrypted file.
    #[arg(long, conflicts_with = "out")]
    private_key: bool,
    /// Write the keystore to this new file instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Carries out a wallet command.
///
/// # Errors
/// When it cannot be done; the text says what to do.
pub fn run(args: WalletCommandArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        WalletCommand::Create(args) => create(&args),
        WalletCommand::List(args) => list(&args),
        WalletCommand::Import(args) => import(&args),
        WalletCommand::Export(args) => export(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let wallet = Wallet::new(args.wallet.wallet.as_deref())?;
    wallet.check_free(&args.name)?;
    let password = args.password.new_password(&args.name)?;
    store(
        &wallet,
        &args.name,
        &Account::random(),
        &password,
        &args.output,
    )
}

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let wallet = Wallet::new(args.wallet.wallet.as_deref())?;
    wallet.check_free(&args.name)?;
    let stdin = Some(Path::new("-"));
    let from = &args.from;
    if args.password.uses_stdin()
        && [&from.key_file, &from.mnemonic_file]
            .iter()
            .any(|file| file.as_deref() == stdin)
    {
        return Err(
            Usage("standard input can hold the key or the password, not both".into()).into(),
        );
    }
    let (account, password) = if let Some(path) = &from.key_file {
        (
            from_key_file(path)?,
            args.password.new_password(&args.name)?,
        )
    } else if let Some(path) = &from.mnemonic_file {
        (
            from_mnemonic(path, args.index)?,
            args.password.new_password(&args.name)?,
        )
    } else if let Some(path) = &from.keystore {
        from_keystore(path, args)?
    } else {
        bail!("nothing to import from");
    };
    if let Some(name) = wallet.name_of(account.address()) {
        bail!("{} is in the wallet already, as {name}", account.address());
    }
    store(&wallet, &args.name, &account, &password, &args.output)
}

fn from_key_file(path: &Path) -> anyhow::Result<Account> {
    let text = secret_text(path)?;
    let digits = text.trim();
    let mut secret = Zeroizing::new([0; 32]);
    let read = hex::decode_to_slice(digits.strip_prefix("0x").unwrap_or(digits), &mut secret[..]);
    let account = read.ok().and_then(|()| Account::from_secret(&secret));
    // The text itself is never shown: it may be almost a key.
    account.with_context(|| {
        format!(
            "{} holds no secret key: expected 64 hexadecimal digits",
            path.display()
        )
    })
}

fn from_mnemonic(path: &Path, index: u32) -> anyhow::Result<Account> {
    let text = secret_text(path)?;
    let words = Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" "));
    let signer = MnemonicBuilder::<English>::default()
        .phrase(words.as_str())
        .index(index)
        .and_then(|builder| builder.build());
    // The library's error may repeat words of it.
    let signer = signer.map_err(|_| {
        anyhow::anyhow!(
            "{} holds no mnemonic: expected 12 to 24 English words of BIP-39 whose check sum is right",
            path.display()
        )
    })?;
    Ok(Account::from(signer))
}

/// The account of a keystore file, and the password under which it is stored here.
fn from_keystore(path: &Path, args: &ImportArgs) -> anyhow::Result<(Account, Password)> {
    let keystore = store::read_keystore(path).with_context(|| path.display().to_string())?;
    let open = |password: &Password| {
        let turning = output::spinner("opening the keystore");
        let account = keystore
            .decrypt(password)
            .with_context(|| path.display().to_string());
        turning.finish_and_clear();
        account
    };
    match &args.keystore_password_file {
        Some(file) => {
            let old = PasswordArgs {
                password_file: Some(file.clone()),
                password_fd: None,
            };
            let account = open(&old.existing(&args.name)?)?;
            Ok((account, args.password.new_password(&args.name)?))
        }
        None => {
            let password = args.password.existing(&path.display().to_string())?;
            let account = open(&password)?;
            ensure!(
                !password.is_empty(),
                "the keystore has an empty password; name a new one with --password-file and the old one with --keystore-password-file"
            );
            Ok((account, password))
        }
    }
}

fn store(
    wallet: &Wallet,
    name: &str,
    account: &Account,
    password: &Password,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let turning = output::spinner("encrypting the key");
    let keystore = Keystore::encrypt(account, password, keystore::SCRYPT_LOG_N);
    turning.finish_and_clear();
    let path = wallet.add(name, &keystore)?;
    if output.json {
        return output::print_json(&account_json(name, Some(account.address()), &path));
    }
    output::print(&table::facts(&[
        ("Account", name.to_owned()),
        ("Address", account.address().to_string()),
        ("File", path.display().to_string()),
    ]))?;
    output::note("Keep a copy of the file and the password: nobody can restore either.");
    Ok(())
}

fn account_json(
    name: &str,
    address: Option<alloy_primitives::Address>,
    path: &Path,
) -> serde_json::Value {
    json!({ "name": name, "address": address.map(|a| a.to_string()), "path": path })
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let wallet = Wallet::new(args.wallet.wallet.as_deref())?;
    let listing = wallet.list()?;
    for (path, why) in &listing.damaged {
        output::note(&format!(
            "warning: {} cannot be used: {why}",
            path.display()
        ));
    }
    if args.output.json {
        let accounts: Vec<_> = listing
            .entries
            .iter()
            .map(|entry| account_json(&entry.name, entry.keystore.address(), &entry.path))
            .collect();
        return output::print_json(&json!({ "wallet": wallet.dir(), "accounts": accounts }));
    }
    if listing.entries.is_empty() {
        output::note(&format!(
            "The wallet {} is empty; make an account with `axolotl wallet create NAME`.",
            wallet.dir().display()
        ));
        return Ok(());
    }
    let rows: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| {
            let address = entry.keystore.address();
            let address = address.map_or("not in the file".to_owned(), |a| a.to_string());
            [table::plain(entry.name.clone()), (address, Colour::Plain)]
        })
        .collect();
    output::print(&table::render(["NAME", "ADDRESS"], &rows, false))
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let wallet = Wallet::new(args.wallet.wallet.as_deref())?;
    let entry = wallet.find(&args.account)?;
    let account = unlock(&entry, &args.password)?;
    if args.private_key {
        let secret = B256::from(*account.secret());
        let text = Zeroizing::new(secret.to_string());
        return match args.output.json {
            true => output::print_json(&json!({
                "name": entry.name,
                "address": account.address().to_string(),
                "private_key": text.as_str(),
            })),
            false => output::print(&format!("{}\n", text.as_str())),
        };
    }
    match &args.out {
        None => output::print(&entry.keystore.text()),
        Some(path) => {
            store::write_new(path, entry.keystore.text().as_bytes(), 0o600)?;
            if args.output.json {
                let address = Some(account.address());
                return output::print_json(&account_json(&entry.name, address, path));
            }
            output::print(&format!("{} is in {}\n", entry.name, path.display()))
        }
    }
}

/// Asks for the password of an account and opens it.
///
/// # Errors
/// When the password cannot be got or is wrong.
pub fn unlock(entry: &Entry, password: &PasswordArgs) -> anyhow::Result<Account> {
    let password = password.existing(&entry.name)?;
    let turning = output::spinner("opening the keystore");
    let account = entry.keystore.decrypt(&password);
    turning.finish_and_clear();
    account.with_context(|| format!("account {} ({})", entry.name, entry.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axolotl_common::genesis::DEV_ACCOUNTS;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn the_development_mnemonic_gives_the_development_accounts() {
        let (_dir, path) = file("test test test test test test test test test test\n test junk\n");
        for (index, address) in (0..).zip(DEV_ACCOUNTS) {
            let account = from_mnemonic(&path, index).unwrap();
            assert_eq!(account.address().to_string(), address);
        }
    }

    #[test]
    fn a_wrong_secret_is_refused_and_never_shown() {
        let (_dir, path) = file("test test test test test test test test test test test test");
        let text = format!("{:#}", from_mnemonic(&path, 0).unwrap_err());
        assert!(
            text.contains("check sum") && !text.contains("test test"),
            "{text}"
        );
        for wrong in ["abcd", &"0".repeat(64), &"f".repeat(64), &"ab".repeat(33)] {
            let (_dir, path) = file(wrong);
            let text = format!("{:#}", from_key_file(&path).unwrap_err());
            assert!(
                text.contains("64 hexadecimal") && !text.contains(wrong),
                "{text}"
            );
        }
        let (_dir, path) = file(&format!("0x{}\n", "11".repeat(32)));
        assert!(from_key_file(&path).is_ok());
    }
}
