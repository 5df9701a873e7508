//! MLflow's model registry: a way to hear of promotions, and one way to be known there.

use super::{Check, url};
use crate::config::{
    Mlflow, MlflowAccess, MlflowServer, Secret,
    problems::Path,
    raw::{self, Hidden},
};

/// MLflow's own longest alias.
const LONGEST_ALIAS: usize = 255;
const ALIASES: &str =
    "up to 255 letters, digits, `_` and `-`, other than `latest`, and `v` and a number, as MLflow has it";

impl Check<'_> {
    pub(super) fn mlflow(&mut self) -> Option<Mlflow> {
        let raw = self.raw.mlflow.as_ref()?;
        let path = Path::of("mlflow");
        if raw.secret.is_none() && raw.url.is_none() {
            self.wrong(&path, "neither `secret` nor `url`, so that no promotion is heard of", "one of them, or both");
        }
        let secret = self.hidden(&path.key("secret"), raw.secret.as_ref());
        Some(Mlflow {
            secret,
            tolerance: raw.tolerance.0,
            server: self.mlflow_server(&path, raw),
            aliases: self.aliases(&path.key("aliases"), raw.aliases.as_deref()),
        })
    }

    fn mlflow_server(&mut self, path: &Path, raw: &raw::Mlflow) -> Option<MlflowServer> {
        let access = self.mlflow_access(path, raw);
        let every = raw.reconcile_every.0;
        let timeout = self.positive(&path.key("timeout"), raw.timeout);
        if raw.url.is_none() && !matches!(access, MlflowAccess::Anonymous) {
            self.wrong(path, "access without a `url`", "token, username and password beside url only");
        }
        let url = raw.url.as_deref()?.trim_end_matches('/');
        if let Err(wrong) = url::web(url) {
            self.wrong(&path.key("url"), wrong, url::WEB);
        }
        Some(MlflowServer { url: url.into(), access, every, timeout })
    }

    fn mlflow_access(&mut self, path: &Path, raw: &raw::Mlflow) -> MlflowAccess {
        let token = self.hidden(&path.key("token"), raw.token.as_ref());
        let password = self.hidden(&path.key("password"), raw.password.as_ref());
        match (token, raw.username.as_deref(), password) {
            (None, None, None) => MlflowAccess::Anonymous,
            (Some(token), None, None) => MlflowAccess::Bearer(token),
            (None, Some(user), Some(password)) if !user.is_empty() => MlflowAccess::Basic(user.into(), password),
            (token, user, password) => {
                self.wrong_access(path, (token.is_some(), user, password.is_some()));
                MlflowAccess::Anonymous
            }
        }
    }

    /// Says what is too much, or too little.
    fn wrong_access(&mut self, path: &Path, given: (bool, Option<&str>, bool)) {
        let (at, wrong) = match given {
            (true, _, _) => ("token", "beside `username` or `password`: two ways to be known"),
            (false, Some(""), _) => ("username", "empty"),
            (false, Some(_), _) => ("username", "without its `password`"),
            (false, None, _) => ("password", "without its `username`"),
        };
        self.wrong(&path.key(at), wrong, "a token alone, or username and password, or none of them");
    }

    fn aliases(&mut self, path: &Path, raw: Option<&[String]>) -> Option<Vec<std::sync::Arc<str>>> {
        let raw = raw?;
        if raw.is_empty() {
            self.wrong(path, "none, so that nothing is a promotion", "at least one, or leave the key out: every alias");
        }
        for (i, alias) in raw.iter().enumerate() {
            if raw[..i].contains(alias) {
                self.wrong(&path.item(i), "named twice", "each alias once");
            } else if !is_alias(alias) {
                self.wrong(&path.item(i), "not an alias that a version can have, so that it is never set", ALIASES);
            }
        }
        Some(raw.iter().map(|alias| alias.as_str().into()).collect())
    }

    fn hidden(&mut self, path: &Path, raw: Option<&Hidden>) -> Option<Secret> {
        let raw = raw?;
        if raw.0.is_empty() {
            self.wrong(path, "empty", "text, best as ${file:/path} or ${VAR}, or leave the key out");
        }
        Some(Secret(raw.0.clone()))
    }
}

/// Whether MLflow takes it for an alias.
///
/// **Source:** MLflow's `_validate_model_alias_name` (`mlflow/utils/validation.py`).
fn is_alias(name: &str) -> bool {
    let digits = name.strip_prefix(['v', 'V']).unwrap_or_default();
    let is_version = !digits.is_empty() && digits.chars().all(char::is_numeric);
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let length = name.chars().count();
    (1..=LONGEST_ALIAS).contains(&length)
        && name.chars().all(fits)
        && !is_version
        && !name.eq_ignore_ascii_case("latest")
}
