//! The command line: what was asked for, and the answers that need no gateway. Reads no
//! configuration itself, ends no process.

mod check;
mod disk;
pub mod files;
mod passwd;
mod replace;

pub use check::{Plan, check, doubtful_place};
pub use passwd::{Error as PasswdError, passwd};

use crate::config;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Exit status of a wrong command line or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Exit status of what the system would not give us.
pub const EXIT_FAILURE: u8 = 1;

/// What `--version` prints.
pub const VERSION: &str = concat!("spillway ", env!("CARGO_PKG_VERSION"));

/// What `--help` prints.
pub const HELP: &str = "\
Spillway, an MQTT gateway that loses no acknowledged QoS 1/2 message

  spillway -c FILE             run in the foreground, log to stderr
  spillway --check -c FILE     check the configuration and the store's place, print what is
                               durable, the memory and flash plan and how long an outage fits
  spillway passwd FILE USER    add a user to auth.password_file or change a password, which comes
                               from the terminal or is the first line of stdin
  spillway --version, -V
  spillway --help, -h

--config FILE and --config=FILE are the same as -c FILE.

Not in this build: spillway store, import, report

Exit status: 0 done, 1 run-time failure, 2 usage or configuration.
SIGTERM and SIGINT stop cleanly.
";

/// Tools the documentation knows and this build has not.
const ABSENT_TOOLS: &[&str] = &["store", "import", "report"];

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// `-c FILE`
    Run {
        config: PathBuf,
    },
    /// `--check -c FILE`
    Check {
        config: PathBuf,
    },
    /// `passwd FILE USER`
    Passwd {
        file: PathBuf,
        user: String,
    },
    Version,
    Help,
}

/// Why the command line asks for nothing we can do; the exit status is [`EXIT_USAGE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Options without a value.
const OPTIONS: &[&str] = &["--check", "--config", "--help", "--version", "-c", "-h", "-V"];

/// What another program's users are used to.
const FOREIGN: &[(&str, &str)] = &[
    ("-d", "it stays in the foreground: init, or S60spillway, keeps it running"),
    ("--daemon", "it stays in the foreground: init, or S60spillway, keeps it running"),
    ("-p", "the port stands in the configuration: listener.NAME.url"),
    ("--port", "the port stands in the configuration: listener.NAME.url"),
    ("-v", "how much is logged stands in the configuration: log.level; the version is -V"),
    ("--verbose", "how much is logged stands in the configuration: log.level"),
    ("-t", "a configuration is checked with --check -c FILE"),
    ("--test", "a configuration is checked with --check -c FILE"),
];

impl Arguments {
    /// `words` are the arguments without the program's name: `std::env::args_os().skip(1)`.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, Usage> {
        let words: Vec<OsString> = words.into_iter().collect();
        if let Some(tool) = words.first().filter(|word| ABSENT_TOOLS.iter().any(|t| *word == t)) {
            return Err(Usage(format!("{} is not in this build", tool.display())));
        }
        if words.first().is_some_and(|word| word == "passwd") {
            return passwd_arguments(&words[1..]);
        }
        let (mut config, mut check, mut help, mut version) = (None, false, false, false);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--check") => check = true,
                Some("--help" | "-h") => help = true,
                Some("--version" | "-V") => version = true,
                Some(key @ ("-c" | "--config")) => take_config(&mut config, key, words.next())?,
                Some(_) | None => match joined(&word) {
                    Some((key, file)) => take_config(&mut config, key, Some(file))?,
                    None => return Err(unexpected(&word)),
                },
            }
        }
        match config {
            _ if help => Ok(Self::Help),
            _ if version => Ok(Self::Version),
            Some(config) if check => Ok(Self::Check { config }),
            Some(config) => Ok(Self::Run { config }),
            None if check => Err(Usage(format!("--check needs -c FILE{MORE}"))),
            None => Err(Usage(format!("-c FILE is missing{MORE}"))),
        }
    }
}

/// Behind what is wrong with the command line.
const MORE: &str = "; spillway --help says more";

/// `--config=FILE`, `-c=FILE`, `-cFILE`
fn joined(word: &OsString) -> Option<(&'static str, OsString)> {
    let bytes = word.as_bytes();
    let (key, file) = if let Some(file) = bytes.strip_prefix(b"--config=") {
        ("--config", file)
    } else {
        let file = bytes.strip_prefix(b"-c")?;
        ("-c", file.strip_prefix(b"=").unwrap_or(file))
    };
    Some((key, OsString::from_vec(file.to_vec())))
}

fn take_config(
    config: &mut Option<PathBuf>,
    key: &str,
    file: Option<OsString>,
) -> Result<(), Usage> {
    // `-c --check` lost its file; a file of such a name is `./--check`.
    let named = |file: &OsString| !file.is_empty() && !file.as_bytes().starts_with(b"-");
    let Some(file) = file.filter(named) else {
        return Err(Usage(format!("{key} needs the name of a file{MORE}")));
    };
    if let Some(first) = config {
        let (first, file) = (first.display(), file.display());
        return Err(Usage(format!("two configurations, {first} and {file}: one is read{MORE}")));
    }
    *config = Some(file.into());
    Ok(())
}

fn unexpected(word: &OsString) -> Usage {
    let text = word.to_string_lossy();
    let shown = word.display();
    if let Some((_, why)) = FOREIGN.iter().find(|(known, _)| *known == text) {
        return Usage(format!("unexpected argument {shown}: {why}{MORE}"));
    }
    let known = OPTIONS.iter().chain(&["passwd"]);
    let near = known.map(|known| (config::distance(known, &text.to_lowercase()), *known)).min();
    // A single letter is near to every other one: only in the other case it is a mistake.
    let near = near.filter(|(distance, known)| *distance <= (known.len() - 2).min(3));
    match near {
        Some((_, near)) => Usage(format!("unexpected argument {shown}: perhaps {near}{MORE}")),
        None if text.starts_with('-') => Usage(format!("unexpected argument {shown}{MORE}")),
        None => {
            let what = "the configuration goes behind -c";
            Usage(format!("unexpected argument {shown}; {what}{MORE}"))
        }
    }
}

fn passwd_arguments(words: &[OsString]) -> Result<Arguments, Usage> {
    let option = |word: &OsString| word.is_empty() || word.to_string_lossy().starts_with('-');
    match words {
        [file, user] if !option(file) => {
            let user = user.to_str().ok_or_else(|| Usage("a user name is UTF-8".to_owned()))?;
            Ok(Arguments::Passwd { file: file.into(), user: user.to_owned() })
        }
        [word] if word == "--help" || word == "-h" => Ok(Arguments::Help),
        _ => Err(Usage(format!("passwd needs FILE and USER, and nothing else{MORE}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        let words = words.iter().map(OsString::from);
        Arguments::parse(words).map_err(|usage| usage.to_string())
    }

    #[test]
    fn the_documented_forms_are_understood() {
        let config = PathBuf::from("a.conf");
        assert_eq!(parse(&["-c", "a.conf"]), Ok(Arguments::Run { config: config.clone() }));
        let check = Ok(Arguments::Check { config });
        assert_eq!(parse(&["--check", "-c", "a.conf"]), check);
        assert_eq!(parse(&["-c", "a.conf", "--check"]), check);
        for words in
            [&["-ca.conf"][..], &["-c=a.conf"], &["--config", "a.conf"], &["--config=a.conf"]]
        {
            assert_eq!(parse(words), Ok(Arguments::Run { config: "a.conf".into() }), "{words:?}");
        }
        assert_eq!(parse(&["--version"]), Ok(Arguments::Version));
        assert_eq!(parse(&["-V"]), Ok(Arguments::Version));
        for words in [&["-h"][..], &["--check", "-h"], &["passwd", "--help"], &["-V", "-h"]] {
            assert_eq!(parse(words), Ok(Arguments::Help), "{words:?}");
        }
        let passwd = Arguments::Passwd { file: "users".into(), user: "-a b".to_owned() };
        assert_eq!(parse(&["passwd", "users", "-a b"]), Ok(passwd));
        assert_eq!(parse(&["--help", "-c", "a.conf"]), Ok(Arguments::Help));
    }

    #[test]
    fn what_is_not_built_is_said_to_be_so() {
        for tool in ABSENT_TOOLS {
            let said = parse(&[tool, "ls", "-c", "a.conf"]);
            assert_eq!(said, Err(format!("{tool} is not in this build")));
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (words, part) in [
            (&[][..], "-c FILE is missing"),
            (&["--check"], "--check needs -c"),
            (&["-c"], "-c needs"),
            (&["-c", ""], "-c needs"),
            (&["-c="], "-c needs"),
            (&["--config"], "--config needs"),
            (&["--config="], "--config needs"),
            (&["-c", "--check"], "-c needs"),
            (&["a.conf"], "unexpected argument a.conf; the configuration goes behind -c"),
            (&["-c", "a", "b"], "unexpected argument b; the configuration goes behind -c"),
            (&["-c", "a", "-c", "b"], "two configurations, a and b: one is read"),
            (&["-c", "a", "--config=b"], "two configurations, a and b"),
            (&["-c", "a", "--chek"], "unexpected argument --chek: perhaps --check"),
            (&["--Help"], "unexpected argument --Help: perhaps --help"),
            (&["--conf", "a"], "unexpected argument --conf: perhaps --config"),
            (&["pasword", "a", "b"], "unexpected argument pasword: perhaps passwd"),
            (&["-d"], "unexpected argument -d: it stays in the foreground"),
            (&["-p", "1883"], "unexpected argument -p: the port stands in the configuration"),
            (&["--version", "-v"], "unexpected argument -v: how much is logged"),
            (&["--frobnicate"], "unexpected argument --frobnicate; spillway --help says more"),
            (&["passwd", "users"], "passwd needs FILE and USER"),
            (&["passwd", "-D", "users"], "passwd needs FILE and USER"),
            (&["passwd", "users", "a", "secret"], "passwd needs FILE and USER"),
            (&["-c", "a", "store"], "unexpected argument store"),
        ] {
            let said = parse(words).expect_err("refused");
            assert!(said.starts_with(part), "{words:?}: {said}");
            assert!(said.ends_with("spillway --help says more"), "{said}");
        }
    }

    #[test]
    fn a_file_name_need_not_be_unicode() {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(vec![0x66, 0xff]);
        let words = ["-c".into(), name.clone()];
        assert_eq!(Arguments::parse(words), Ok(Arguments::Run { config: name.into() }));
        let joined = OsString::from_vec(b"-cf\xff".to_vec());
        let config = OsString::from_vec(b"f\xff".to_vec()).into();
        assert_eq!(Arguments::parse([joined]), Ok(Arguments::Run { config }));
    }
}
