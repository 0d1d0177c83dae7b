//! How a password is got: asked on the terminal without echo, or read from a file or an open
//! descriptor. Never from an argument or a variable, which other processes may read.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use zeroize::Zeroizing;

use super::output::Usage;

/// Longest password, bytes.
const MAX_PASSWORD_BYTES: u64 = 4 << 10;
/// Largest file of a secret.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// A password. Wiped from memory on drop, never printed.
pub type Password = Zeroizing<String>;

/// Where the password comes from; unset: it is asked on the terminal.
#[derive(Args, Clone, Debug, Default)]
pub struct PasswordArgs {
    /// File whose first line is the password.
    #[arg(long, value_name = "FILE", conflicts_with = "password_fd")]
    pub password_file: Option<PathBuf>,
    /// Open file descriptor whose first line is the password; 0 is standard input.
    #[arg(long, value_name = "N")]
    pub password_fd: Option<u32>,
}

impl PasswordArgs {
    /// The password of something that is there already.
    ///
    /// # Errors
    /// When it cannot be read, or there is no terminal to ask on.
    pub fn existing(&self, of: &str) -> anyhow::Result<Password> {
        match self.given()? {
            Some(password) => Ok(password),
            None => ask(&format!("Password of {of}: ")),
        }
    }

    /// A new password; asked twice on a terminal.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or was not typed alike twice.
    pub fn new_password(&self, of: &str) -> anyhow::Result<Password> {
        let password = match self.given()? {
            Some(password) => password,
            None => {
                let password = ask(&format!("New password for {of}: "))?;
                let again = ask("The same again: ")?;
                ensure!(
                    password == again,
                    "the two passwords differ; nothing was written"
                );
                password
            }
        };
        ensure!(
            !password.is_empty(),
            "the password is empty; nothing was written"
        );
        Ok(password)
    }

    /// Whether standard input is taken by the password.
    pub fn uses_stdin(&self) -> bool {
        self.password_fd == Some(0)
    }

    fn given(&self) -> anyhow::Result<Option<Password>> {
        let (path, name) = match (&self.password_file, self.password_fd) {
            (Some(path), _) => (path.clone(), format!("--password-file {}", path.display())),
            // Opened anew by its name: the descriptor itself stays open for whoever owns it.
            (None, Some(fd)) => (
                PathBuf::from(format!("/proc/self/fd/{fd}")),
                format!("--password-fd {fd}"),
            ),
            (None, None) => return Ok(None),
        };
        first_line(&path)
            .map(Some)
            .with_context(|| format!("cannot read the password: {name}"))
    }
}

fn first_line(path: &Path) -> anyhow::Result<Password> {
    let file = File::open(path)?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD_BYTES as usize + 1));
    BufReader::new(file.take(MAX_PASSWORD_BYTES + 1)).read_until(b'\n', &mut line)?;
    ensure!(
        line.len() as u64 <= MAX_PASSWORD_BYTES,
        "the first line is longer than {MAX_PASSWORD_BYTES} bytes"
    );
    let text = std::str::from_utf8(&line).context("the first line is not UTF-8")?;
    Ok(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

fn ask(prompt: &str) -> anyhow::Result<Password> {
    match rpassword::prompt_password(prompt) {
        Ok(password) => Ok(Zeroizing::new(password)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => bail!("interrupted"),
        Err(error) => Err(Usage(format!(
            "there is no terminal to ask for the password on ({error}): use --password-file or \
             --password-fd"
        ))
        .into()),
    }
}

/// The text of a secret file; `-` is standard input.
///
/// # Errors
/// When it cannot be read, is too long or no text.
pub fn secret_text(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let limit = MAX_SECRET_BYTES + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text)?;
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let read = file.take(limit).read_to_string(&mut text);
        read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    ensure!(
        text.len() as u64 <= MAX_SECRET_BYTES,
        "{} is larger than {MAX_SECRET_BYTES} bytes: it is no key",
        path.display()
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8]) -> anyhow::Result<Password> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, content).unwrap();
        let args = PasswordArgs {
            password_file: Some(path),
            password_fd: None,
        };
        args.new_password("x")
    }

    #[test]
    fn the_first_line_counts() {
        assert_eq!(*from_file(b"pass word\nrest").unwrap(), "pass word");
        assert_eq!(*from_file(b"p\r\n").unwrap(), "p");
        assert_eq!(
            *from_file(" spaces stay ".as_bytes()).unwrap(),
            " spaces stay "
        );
        for (bad, why) in [
            (&b"\nsecond"[..], "empty"),
            (b"", "empty"),
            (b"\xff\n", "UTF-8"),
            (&[b'a'; 5_000], "longer"),
        ] {
            let text = format!("{:#}", from_file(bad).unwrap_err());
            assert!(text.contains(why), "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let args = PasswordArgs {
            password_file: Some("/no/such/file".into()),
            password_fd: None,
        };
        let text = format!("{:#}", args.existing("x").unwrap_err());
        assert!(text.contains("/no/such/file"), "{text}");
    }
}
