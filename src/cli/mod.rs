//! The command line: what was asked for, and the answers that need no gateway. Reads no
//! configuration itself, ends no process.

mod check;
mod disk;
pub mod files;
mod passwd;
mod replace;

pub use check::{Plan, check, doubtful_place};
pub use passwd::{Error as PasswdError, passwd};

use std::ffi::OsString;
use std::fmt;
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
  spillway --version
  spillway --help

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
        let mut arguments = pico_args::Arguments::from_vec(words);
        let config = arguments
            .opt_value_from_os_str("-c", |word| Ok::<_, fmt::Error>(PathBuf::from(word)))
            .map_err(|_| Usage("-c needs the name of a file".to_owned()))?;
        let help = arguments.contains("--help");
        let version = arguments.contains("--version");
        let check = arguments.contains("--check");
        if let Some(word) = arguments.finish().first() {
            let hint = if word.to_string_lossy().starts_with('-') {
                ""
            } else {
                "; the configuration goes behind -c"
            };
            return Err(Usage(format!("unexpected argument {}{hint}", word.display())));
        }
        if help {
            return Ok(Self::Help);
        }
        if version {
            return Ok(Self::Version);
        }
        match config {
            // `-c --check` lost its file; a file of such a name is `./--check`.
            Some(file)
                if file.as_os_str().is_empty() || file.to_string_lossy().starts_with('-') =>
            {
                Err(Usage("-c needs the name of a file".to_owned()))
            }
            Some(config) if check => Ok(Self::Check { config }),
            Some(config) => Ok(Self::Run { config }),
            None if check => Err(Usage("--check needs -c FILE".to_owned())),
            None => Err(Usage("-c FILE is missing; --help says more".to_owned())),
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
        _ => Err(Usage("passwd needs FILE and USER, and nothing else".to_owned())),
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
        assert_eq!(parse(&["--version"]), Ok(Arguments::Version));
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
            (&["-c", "--check"], "-c needs"),
            (&["a.conf"], "unexpected argument a.conf; the configuration goes behind -c"),
            (&["-c", "a", "-c", "b"], "unexpected argument -c"),
            (&["-c", "a", "--chek"], "unexpected argument --chek"),
            (&["passwd", "users"], "passwd needs FILE and USER"),
            (&["passwd", "-D", "users"], "passwd needs FILE and USER"),
            (&["passwd", "users", "a", "secret"], "passwd needs FILE and USER"),
            (&["--version", "-v"], "unexpected argument -v"),
            (&["-c", "a", "store"], "unexpected argument store"),
        ] {
            let said = parse(words).expect_err("refused");
            assert!(said.starts_with(part), "{words:?}: {said}");
        }
    }

    #[test]
    fn a_file_name_need_not_be_unicode() {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(vec![0x66, 0xff]);
        let words = ["-c".into(), name.clone()];
        assert_eq!(Arguments::parse(words), Ok(Arguments::Run { config: name.into() }));
    }
}
