//! MLflow's model registry: a way to hear of promotions, and one way to be known there.

use std::time::Duration;

use super::{Check, url};
use crate::config::{
    Mlflow, MlflowAccess, MlflowServer, Secret,
    problems::Path,
    raw::{self, Hidden},
};

/// How often the registry may be looked at, and the least that clocks may differ.
const SHORTEST: Duration = Duration::from_secs(1);

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
            tolerance: self.at_least(&path.key("tolerance"), raw.tolerance),
            server: self.mlflow_server(&path, raw),
            aliases: self.aliases(&path.key("aliases"), raw.aliases.as_deref()),
        })
    }

    fn mlflow_server(&mut self, path: &Path, raw: &raw::Mlflow) -> Option<MlflowServer> {
        let access = self.mlflow_access(path, raw);
        let every = self.at_least(&path.key("reconcile_every"), raw.reconcile_every);
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
            _ => {
                self.wrong(path, "more or less than one way to be known", "token, or username and password, or none");
                MlflowAccess::Anonymous
            }
        }
    }

    fn aliases(&mut self, path: &Path, raw: Option<&[String]>) -> Option<Vec<std::sync::Arc<str>>> {
        let raw = raw?;
        if raw.is_empty() {
            self.wrong(path, "none, so that nothing is a promotion", "at least one, or leave the key out: every alias");
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

    fn at_least(&mut self, path: &Path, span: raw::Span) -> Duration {
        if span.0 < SHORTEST {
            self.wrong(path, "too short", "1s or more");
        }
        span.0
    }
}
