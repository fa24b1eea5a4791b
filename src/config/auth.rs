//! Who may do what: the keys below `auth`, and the two files they name.

use super::acl::Acl;
use super::parse::Shown;
use super::reader::{Reader, TOP};
use super::textfile::{NoText, decode, lines};
use super::users::Users;
use super::values::{off_is_none, text};
use std::sync::Arc;

/// Errors of one file that are told; the first show what kind of file it is.
const ERRORS_MAX: usize = 10;

/// Users and access rules. `Default` knows neither: every name is taken as it is, everybody may
/// do everything. Copies are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    pub users: Option<Arc<Users>>,
    pub acl: Option<Arc<Acl>>,
}

impl Auth {
    pub fn bytes(&self) -> usize {
        let users = self.users.as_ref().map_or(0, |users| users.bytes());
        users + self.acl.as_ref().map_or(0, |acl| acl.bytes())
    }
}

type ReadFile<'f> = &'f mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

pub(super) fn auth(reader: &mut Reader<'_>, read_file: ReadFile<'_>) -> Auth {
    let users =
        read(reader, "auth.password_file", read_file, Users::parse, "nobody has a password");
    let acl = read(reader, "auth.acl_file", read_file, Acl::parse, "everything is denied");
    if acl.is_some() && !is_named(reader, "auth.password_file") {
        let what = "without auth.password_file a client may take any user name";
        reader.warn("auth.acl_file", TOP, what);
    }
    Auth { users: users.map(Arc::new), acl: acl.map(Arc::new) }
}

/// Does the configuration name such a file, readable or not?
pub(super) fn is_named(reader: &Reader<'_>, key: &str) -> bool {
    reader.entry(key, TOP).is_some_and(|entry| !entry.word.is_off())
}

fn read<T: Default>(
    reader: &mut Reader<'_>,
    key: &'static str,
    read_file: ReadFile<'_>,
    parse: impl Fn(&str) -> Result<T, Vec<(u32, String)>>,
    nothing: &str,
) -> Option<T> {
    let path = reader.maybe(key, TOP, off_is_none(text(1, 1024))).flatten()?;
    let bytes = match read_file(&path) {
        Ok(bytes) => bytes,
        Err(why) => {
            reader.error(key, TOP, format!("{} cannot be read: {}", Shown(&path), Shown(&why)));
            return None;
        }
    };
    let text = match decode(&bytes) {
        Ok(text) => text,
        Err(why) => {
            reader.error(key, TOP, no_text(&path, &why));
            return None;
        }
    };
    match parse(text) {
        Ok(value) => {
            if lines(text).all(|(_, line)| line.trim().is_empty() || line.starts_with('#')) {
                reader.warn(key, TOP, format!("{} says nothing: {nothing}", Shown(&path)));
            }
            Some(value)
        }
        Err(errors) => {
            for (line, what) in errors.iter().take(ERRORS_MAX) {
                reader.error(key, TOP, format!("{}:{line}: {what}", Shown(&path)));
            }
            None
        }
    }
}

/// Where a file is no text, and why.
pub(super) fn no_text(path: &str, why: &NoText) -> String {
    match why.line {
        0 => format!("{} {}", Shown(path), why.what),
        line => format!("{}:{line}: {}", Shown(path), why.what),
    }
}
